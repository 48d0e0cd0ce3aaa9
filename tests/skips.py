"""A skipped test is a failed test in CI, unless its reason stands in ALLOWED. Elsewhere the summary lists skips."""

import os
from collections.abc import Generator

import pytest

NO_PUBLIC_DATA = "the public data sets are not beside this checkout"
NO_MINILM = "set IREPO_MINILM to a folder with all-MiniLM-L6-v2"
NO_RAY = "Ray is not installed: requirements/ray.txt"
NO_MOUNT = "this machine does not allow mounting a file system in a user namespace"
NO_ISOLATION = "this machine allows neither user namespaces nor Landlock, or one of them only"

#: {reason: why CI may do without the test}
ALLOWED = {
    NO_PUBLIC_DATA: "the data sets are not ours to distribute; small files of the same format are always read",
    NO_MINILM: "the model comes from a hub that CI may not reach; a tiny encoder is always tested",
    NO_RAY: "it is installed beside the lock; dealing to workers is always tested, with workers that are threads",
    NO_ISOLATION: "containers often forbid it; the example refuses to run there",
    NO_MOUNT: "containers often forbid it; failed writes are also tested with simulated errors",
}


def in_ci() -> bool:
    return os.environ.get("CI") == "true"


def refusal(report: pytest.CollectReport | pytest.TestReport) -> str | None:
    """Why CI does not accept this skip; None where it does, and for a report that is not a skip."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return None
    path, line, message = report.longrepr
    reason = message.removeprefix("Skipped: ")
    if reason in ALLOWED:
        return None
    return f"{path}:{line}: skipped under CI=true: {reason}. Provide what it needs, or add the reason to {__file__}."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if in_ci() and (message := refusal(report)):
        report.outcome, report.longrepr = "failed", message
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if in_ci() and (message := refusal(report)):
        report.outcome, report.longrepr = "failed", message
    return report
