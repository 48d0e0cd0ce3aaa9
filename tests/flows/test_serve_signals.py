"""SIGTERM ends `make serve` and its server at any moment; only kill -9 may leave the server."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conf.compose import PROJECT
from tests.flows.served import Served
from tests.waiting import limit


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_server_starts_ends_it(tmp_path: Path, tiny_policy: Path, number: signal.Signals) -> None:
    service = Served(tmp_path, tiny_policy)
    with service.log.open("wb") as log:
        runner = subprocess.Popen(
            [sys.executable, "-m", "flows.serve"], cwd=PROJECT, env=service.environment, stdout=log, stderr=log,
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a suite under nohup ignores SIGHUP
        )  # fmt: skip
    try:
        service.until(lambda: bool(service.processes("flows.operations.prefect_server")), 60)
        runner.send_signal(number)
        assert runner.wait(timeout=limit(40)) == 128 + number, service.log.read_text()
        service.until(lambda: not service.processes(), 2)
        assert service.log.read_text() == ""
    finally:
        runner.kill()
        service.stop()
