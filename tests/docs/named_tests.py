"""Tables of docs/ whose every line names the tests that show it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`( \(slow\))?")


def tests_in(path: Path) -> dict[str, bool]:
    """Names of the tests of a file, and whether each is slow."""
    source = path.read_text(encoding="utf-8")
    all_slow = "pytestmark = pytest.mark.slow" in source
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {f.name: all_slow or "pytest.mark.slow" in map(ast.unparse, f.decorator_list) for f in functions}


def check_table(page: str, heading: str, *, least: int) -> None:
    """Every row of the tables in docs/`page`, `least` or more, names tests that exist and says which are slow.

    heading: the first column's heading, whose row is left out.
    """
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith(f"| {heading}")]
    assert len(rows) >= least
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        for path, name, slow in named:
            found = tests_in(ROOT / path)
            assert name in found, f"{path}::{name}"
            assert found[name] == bool(slow), f"{path}::{name}: slow or not?"
