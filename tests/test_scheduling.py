"""How files are dealt to processes: those that are named exist, and files that share a server stay together."""

import ast

from tests.docs import named_tests
from tests.scheduling import BESIDE, LONG, ROOT, FilesTogether


def test_the_files_that_are_named_exist() -> None:
    assert [name for name in (*LONG, *BESIDE, *BESIDE.values()) if not (ROOT / name).is_file()] == []


def test_files_that_share_a_server_are_dealt_as_one() -> None:
    scheduling = FilesTogether.__new__(FilesTogether)
    unit = scheduling._split_scope
    assert unit("tests/flows/test_ui.py::test_a[x::y]") == unit("tests/flows/test_serve.py::test_b")
    assert unit("tests/flows/test_text.py::test_a") == "tests/flows/test_text.py"


def test_every_file_that_uses_the_served_server_in_the_suite_is_dealt_with_it() -> None:
    """Otherwise a second process would start a server."""
    together = set()
    for path in (ROOT / "tests" / "flows").glob("test_*.py"):
        slow = named_tests.tests_in(path)
        functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
        quick = [node for node in functions if node.name.startswith("test_") and not slow[node.name]]
        if any("served" in [argument.arg for argument in node.args.args] for node in quick):
            name = path.relative_to(ROOT).as_posix()
            together.add(BESIDE.get(name, name))
    assert together == {"tests/flows/test_serve.py"}
