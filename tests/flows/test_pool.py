"""The second way: a server, `make deploy`, a worker of the pool, a run; and a worker's death."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.compose import PROJECT
from flows.operations.secret import SERVER, new_secret
from tests.flows.served import Served
from tests.waiting import limit

pytestmark = pytest.mark.slow


@pytest.fixture
def pool(tmp_path: Path, tiny_policy: Path) -> Iterator[Served]:
    service = Served(tmp_path, tiny_policy)
    with service.log.open("wb") as log:

        def start(*words: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", *words]
            return subprocess.Popen(command, cwd=PROJECT, env=service.environment, stdout=log, stderr=log)

        try:
            # As docs/security.md tells people who use several machines.
            (tmp_path / "prefect").mkdir()
            (tmp_path / "prefect" / "irepo-secret").write_text(new_secret())
            (tmp_path / "prefect" / "irepo-secret").chmod(0o600)
            service.environment |= {SERVER: service.secret, "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}
            start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(service.port))
            service.until(service.healthy, 60)
            assert start("flows.deploy").wait(timeout=limit(120)) == 0, service.log.read_text()
            start("flows.deploy", "worker")
            yield service
        finally:
            service.stop()


def test_a_worker_runs_a_deployment_and_takes_its_runs_with_it(pool: Served) -> None:
    run = pool.run("pooled", rounds=1)
    pool.await_state(run, "Completed", seconds=180)
    assert (pool.runs / "pooled" / "round-01" / "evaluate" / "manifest.json").is_file()
    night = pool.prefect("deployment", "schedule", "ls", "irepo/nightly").stdout
    assert "cron: 0 2 * * *" in night

    pool.run("long", "training.epochs=20000", "training.launch=process", rounds=1)
    pool.until(lambda: bool(pool.processes("tasks.training.launch")), 120)
    (worker,) = pool.processes("worker", "start")
    subprocess.run(["kill", "-9", str(worker)], check=True)
    pool.until(lambda: not pool.processes("prefect.engine") and not pool.processes("tasks."), 10)


def test_deploying_without_a_server_is_refused(tmp_path: Path, tiny_policy: Path) -> None:
    service = Served(tmp_path, tiny_policy)
    command = [sys.executable, "-m", "flows.deploy"]
    done = subprocess.run(
        command, cwd=PROJECT, env=service.environment, capture_output=True, text=True, timeout=limit(120)
    )
    assert done.returncode == 2
    assert "no Prefect server answers there" in done.stderr
    assert service.api in done.stderr
