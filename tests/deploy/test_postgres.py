"""Prefect's server on a Postgres that the test starts: deployments and the work pool of Kubernetes are kept there."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.compose import PROJECT
from flows.operations.secret import SERVER, new_secret
from flows.operations.temporary_server import free_port
from tests.flows.served import Served
from tests.waiting import limit

pytestmark = pytest.mark.slow

_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def program(name: str) -> Path:
    """A program of Postgres (Debian: apt-get install postgresql)."""
    found = shutil.which(name) or (_DEBIAN[-1] / name if _DEBIAN else None)
    assert found is not None, "this test needs Postgres: apt-get install postgresql"
    return Path(found)


class Postgres:
    """A database on loopback, of a user that is not root: Postgres refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        self.data, self.port = folder / "data", free_port()
        folder.chmod(0o777)
        self._run(program("initdb"), "-D", self.data, "-U", "prefect", "--auth=trust", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run(program("pg_ctl"), "-D", self.data, "-o", options, "-w", "-l", folder / "log", "start")
        self.query("CREATE DATABASE prefect", "postgres")

    @property
    def address(self) -> str:
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/prefect"

    def query(self, text: str, database: str = "prefect") -> str:
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "prefect", "-d", database]
        command = [str(program("psql")), *place, "-Atc", text]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit(30))
        return done.stdout.strip()

    def stop(self) -> None:
        self._run(program("pg_ctl"), "-D", self.data, "-m", "immediate", "stop")

    def _run(self, *command: str | Path) -> None:
        words = [str(word) for word in command]
        if os.getuid() == 0:
            words = ["runuser", "-u", "postgres", "--", *words]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=limit(60))


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="irepo-postgres-", ignore_cleanup_errors=True) as folder:
        database = Postgres(Path(folder))  # not in tmp_path, which only its owner can enter
        try:
            yield database
        finally:
            database.stop()


def test_prefect_keeps_its_deployments_and_the_kubernetes_pool_in_postgres(
    postgres: Postgres, tmp_path: Path, tiny_policy: Path
) -> None:
    service = Served(tmp_path, tiny_policy)
    (tmp_path / "prefect").mkdir()
    secret = tmp_path / "prefect" / "irepo-secret"
    secret.write_text(new_secret())
    secret.chmod(0o600)
    service.environment |= {SERVER: service.secret, "PREFECT_API_DATABASE_CONNECTION_URL": postgres.address}
    try:
        with service.log.open("wb") as log:

            def start(*words: str) -> subprocess.Popen[bytes]:
                command = [sys.executable, "-m", *words]
                return subprocess.Popen(command, cwd=PROJECT, env=service.environment, stdout=log, stderr=log)

            start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(service.port))
            service.until(service.healthy, 90)
            assert start("flows.deploy").wait(timeout=limit(120)) == 0, service.log.read_text()
        names = postgres.query("SELECT name FROM deployment ORDER BY name").splitlines()
        assert names == ["compare", "iterate", "nightly", "train"]
        template = PROJECT / "deploy/kubernetes/base-job-template.json"
        pool = ("work-pool", "create", "gpu", "--type", "kubernetes", "--base-job-template", str(template))
        done = service.prefect(*pool)
        assert done.returncode == 0, done.stdout + done.stderr
        kept = json.loads(postgres.query("SELECT base_job_template FROM work_pool WHERE name = 'gpu'"))
        assert kept == json.loads(template.read_text(encoding="utf-8"))
    finally:
        service.stop()
