"""docs/architecture.md: its table of rooms is complete, every import follows it, and the quoted round is the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
TOP = ("storage", "conf", "tasks", "flows")
#: Modules of tasks/ that import Prefect.
THIN = {f"tasks/{name}.py" for name in ("generate", "label", "train", "evaluate", "report", "retry", "progress")}
#: Modules of tasks/ that rooms import: they know nothing of rooms.
SHARED = ("tasks.processes", "tasks.child_process", "tasks.cluster_settings", "tasks.interrupts", "tasks.loopback")
ROW = re.compile(r"^\| `([a-z0-9.]+)` \| .+ \|(.*)\|$", re.MULTILINE)


def allowed() -> dict[str, set[str]]:
    """What each room may import, by the table."""
    return {room: set(re.findall(r"`([\w.]+)`", cell)) for room, cell in ROW.findall(PAGE)}


def rooms() -> set[str]:
    """The top folders, and every package directly below flows/ and tasks/."""
    below = {f"{top}.{path.parent.name}" for top in ("flows", "tasks") for path in (ROOT / top).glob("*/__init__.py")}
    return below | set(TOP)


def room_of(module: str) -> str:
    first = ".".join(module.split(".")[:2])
    return first if first in rooms() else module.split(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, also inside functions; for `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module in TOP)


def product_files() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for top in TOP for path in (ROOT / top).rglob("*.py"))


def test_the_table_names_every_room() -> None:
    assert set(allowed()) == rooms()
    assert {room for names in allowed().values() for room in names} <= rooms()


@pytest.mark.parametrize("top", TOP)
def test_imports_follow_the_table(top: str) -> None:
    table = allowed()
    wrong = []
    for name in product_files():
        room = room_of(name.removesuffix(".py").replace("/", "."))
        if not name.startswith(f"{top}/"):
            continue
        for module in imports(ROOT / name):
            if module.split(".")[0] not in (*TOP, "tests", "benchmarks", "examples") or module in TOP:
                continue
            target = room_of(module)
            if target != room and target not in table[room]:
                wrong.append(f"{name} imports {module}")
            if target == "tasks" and room.startswith("tasks.") and not module.startswith(SHARED):
                wrong.append(f"{name} imports {module}, which knows rooms")
    assert not wrong, "\n".join(wrong)


def test_prefect_is_imported_only_in_flows_and_thin_tasks() -> None:
    users = {
        name for name in product_files() if any(module.split(".")[0] == "prefect" for module in imports(ROOT / name))
    }
    assert {name for name in users if not name.startswith("flows/")} == THIN


def test_the_quoted_round_is_the_code() -> None:
    source = (ROOT / "flows/round.py").read_text(encoding="utf-8")
    quoted = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(quoted) == 1
    assert quoted[0] in source, "quote play_round of flows/round.py again"


def test_paths_exist() -> None:
    """Every file and folder that the page names in backticks, from the project's folder."""
    named = re.findall(r"`((?:flows|tasks|storage|conf|tests|examples|benchmarks|docs)/[\w/.-]*)`", PAGE)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_class_of_stages_is_named() -> None:
    source = (ROOT / "flows/stages.py").read_text(encoding="utf-8")
    classes = re.findall(r"^class (\w+)\(Stages\)", source, re.MULTILINE)
    assert len(classes) == 4
    assert [name for name in classes if f"`{name}`" not in PAGE] == []
