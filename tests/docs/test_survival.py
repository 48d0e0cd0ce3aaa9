"""Every test that docs/survival.md names is there, and is marked slow where the page says so."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`( \(slow\))?")


def named_in(path: Path) -> dict[str, bool]:
    """Names of the tests of a file, and whether each is slow."""
    source = path.read_text(encoding="utf-8")
    all_slow = "pytestmark = pytest.mark.slow" in source
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {f.name: all_slow or "pytest.mark.slow" in map(ast.unparse, f.decorator_list) for f in functions}


def test_every_line_names_tests_that_exist() -> None:
    lines = (ROOT / "docs" / "survival.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| fault")]
    assert len(rows) > 20
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        for path, name, slow in named:
            found = named_in(ROOT / path)
            assert name in found, f"{path}::{name}"
            assert found[name] == bool(slow), f"{path}::{name}: slow or not?"
