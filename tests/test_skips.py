"""Under CI=true a skip fails, unless its reason is allowed; without CI it is listed."""

import re
from collections.abc import Callable

import pytest

from tests.skips import NO_MINILM

pytest_plugins = ["pytester"]

RunSuite = Callable[[str, str], tuple[int, str]]

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


@pytest.fixture
def run_suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunSuite:
    """Runs pytest, in this process, on a file with the text `suite`; returns its exit code and output."""

    def run(suite: str, ci: str) -> tuple[int, str]:
        monkeypatch.setenv("CI", ci)
        done = pytester.runpytest_inprocess("-p", "tests.skips", "-rs", pytester.makepyfile(test_suite=suite))
        return done.ret, done.stdout.str()

    return run


def test_ci_fails_for_a_skip_that_is_not_allowed(run_suite: RunSuite) -> None:
    code, output = run_suite(SUITE, "true")
    assert code == 1
    assert "skipped under CI=true: there is no browser" in output
    assert re.search("1 skipped, 1 xfailed,( 1 warning,)? 1 error", output)
    assert re.search(rf"SKIPPED.*{NO_MINILM}", output)


def test_without_ci_skips_are_listed(run_suite: RunSuite) -> None:
    code, output = run_suite(SUITE, "")
    assert code == 0
    assert "2 skipped, 1 xfailed" in output
    assert re.search("SKIPPED.*there is no browser", output)


@pytest.mark.parametrize(("ci", "expected"), [("true", 2), ("", 5)])  # pytest: 2 interrupted, 5 no tests collected
def test_a_module_that_skips_itself_fails_in_ci(run_suite: RunSuite, ci: str, expected: int) -> None:
    code, output = run_suite('import pytest\npytest.importorskip("no_such_package")\n', ci)
    assert code == expected
    assert "no_such_package" in output
