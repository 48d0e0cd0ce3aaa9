"""Under CI=true a skip fails, unless its reason is allowed; without CI it is listed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conf.compose import PROJECT
from tests.skips import NO_MINILM

SUITE = f"""
import pytest

@pytest.mark.skipif(True, reason="there is no browser")
def test_in_a_browser():
    pass

@pytest.mark.skipif(True, reason={NO_MINILM!r})
def test_with_a_large_model():
    pass

@pytest.mark.xfail(reason="a known defect")
def test_with_a_known_defect():
    assert False
"""


def run_suite(folder: Path, suite: str, ci: str) -> tuple[int, str]:
    """Exit code and output of pytest on a file with the text `suite`."""
    (folder / "test_suite.py").write_text(suite)
    environment = os.environ | {"CI": ci, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "pytest", "-p", "tests.skips", "-rs", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_ci_fails_for_a_skip_that_is_not_allowed(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, SUITE, ci="true")
    assert code == 1
    assert "skipped under CI=true: there is no browser" in output
    assert "1 skipped, 1 xfailed, 1 error" in output
    assert re.search(rf"SKIPPED.*{NO_MINILM}", output)


def test_without_ci_skips_are_listed(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, SUITE, ci="")
    assert code == 0
    assert "2 skipped, 1 xfailed" in output
    assert re.search("SKIPPED.*there is no browser", output)


@pytest.mark.parametrize(("ci", "expected"), [("true", 2), ("", 5)])  # pytest: 2 interrupted, 5 no tests collected
def test_a_module_that_skips_itself_fails_in_ci(tmp_path: Path, ci: str, expected: int) -> None:
    code, output = run_suite(tmp_path, 'import pytest\npytest.importorskip("no_such_package")\n', ci=ci)
    assert code == expected
    assert "no_such_package" in output
