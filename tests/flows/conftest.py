"""One server and runner for all tests that operate runs, and one browser for those of a file that read reports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.browser import Browser, chromium
from tests.flows.served import Served


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Iterator[Served]:
    service = Served(tmp_path_factory.mktemp("served"), tiny_policy)
    service.start()
    try:
        yield service
        assert service.end_runner() == 143
        assert "RuntimeWarning" not in service.log.read_text()
        assert not service.processes("flows.operations.prefect_server"), "only kill -9 may leave the server"
    finally:
        service.stop()


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    """A browser; each test opens a tab with a profile of its own."""
    with chromium() as browser:
        yield browser
