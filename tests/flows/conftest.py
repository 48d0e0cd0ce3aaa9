"""One server and runner for all tests that operate runs, and one browser for those of a file that read reports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.browser import Browser, chromium
from tests.flows.served import Served


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"), tiny_policy)
    try:
        yield made
        if made.running:
            made.end()
    finally:
        made.stop()


@pytest.fixture
def served(service: Served) -> Served:
    """`make serve`, the one of the test before if that used it."""
    if not service.running:
        service.start()
    return service


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End `make serve` before a test that does not use it: it asks its server every second, all through the suite."""
    uses, goes_on = (isinstance(each, pytest.Function) and "served" in each.fixturenames for each in (item, nextitem))
    if uses and not goes_on and isinstance(item, pytest.Function):
        service = item.funcargs.get("served")
        if isinstance(service, Served) and service.running:
            service.end()


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    """A browser; each test opens a tab with a profile of its own."""
    with chromium() as browser:
        yield browser
