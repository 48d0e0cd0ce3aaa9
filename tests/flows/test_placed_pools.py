"""A run whose stages go to two work pools with a worker each; one worker is killed in the middle of a stage."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.compose import PROJECT
from flows.operations.secret import SERVER, new_secret
from storage.manifest import folder_digest, read_manifest
from tests.flows.served import Served
from tests.waiting import limit

pytestmark = pytest.mark.slow

PLACES = [
    "placement.generate=gpu-pool",
    "placement.train=gpu-pool",
    "placement.label=cpu-pool",
    "rounds=1",
    "training.launch=process",
]


class Pools(Served):
    """A server, and workers that are started by hand, as docs/scale.md says."""

    def start_program(self, *words: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", *words]
            return subprocess.Popen(command, cwd=PROJECT, env=self.environment, stdout=log, stderr=log)

    def start_worker(self, pool: str) -> subprocess.Popen[bytes]:
        worker = self.start_program("flows.deploy", "worker", pool)
        self.until(lambda: self.online(pool) > 0, 120)
        return worker

    def online(self, pool: str) -> int:
        answer = self.request("POST", f"work_pools/{pool}/workers/filter", {})
        return sum(each["status"] == "ONLINE" for each in answer.json()) if answer.status_code == 200 else 0

    def start_run(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        return self.start_program("flows.iterate", *self._words(f"name={name}", *PLACES, *words))

    def published(self, name: str) -> dict[str, str]:
        """What the round made, by stage: the digest of its files."""
        stages = self.runs / name / "round-01"
        return {stage: read_manifest(stages / stage).content for stage in ("generate", "label", "train")}


@pytest.fixture
def pools(tmp_path: Path, tiny_policy: Path) -> Iterator[Pools]:
    service = Pools(tmp_path, tiny_policy)
    service.environment["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    service.log.touch()
    try:
        (tmp_path / "prefect").mkdir()
        (tmp_path / "prefect" / "irepo-secret").write_text(new_secret())
        (tmp_path / "prefect" / "irepo-secret").chmod(0o600)
        service.environment |= {SERVER: service.secret, "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}
        service.start_program("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(service.port))
        service.until(service.healthy, 60)
        yield service
    finally:
        service.stop()


def test_stages_run_in_pools_and_a_killed_worker_costs_its_stage_a_new_start(pools: Pools) -> None:
    early = pools.by_hand("name=early", *PLACES)
    assert early.returncode == 2
    assert "there is no work pool 'gpu-pool'" in early.stderr
    assert "python -m flows.deploy worker gpu-pool" in early.stderr

    gpu = pools.start_worker("gpu-pool")
    pools.start_worker("cpu-pool")
    run = pools.start_run("placed", "training.epochs=60")
    pools.until(lambda: bool(pools.processes("tasks.training.launch")), 240)
    gpu.send_signal(signal.SIGKILL)
    pools.until(lambda: not pools.processes("tasks.training.launch"), 15)
    pools.start_worker("gpu-pool")
    assert run.wait(timeout=limit(300)) == 0, pools.log.read_text()[-4000:]
    printed = (pools.runs / "placed" / "run.log").read_text()
    assert "train of round 1: its process in the work pool gpu-pool died" in printed
    hosts = {process for process in printed.splitlines() if "works on" in process}
    assert len(hosts) >= 5  # the run, and a process for every placed stage

    alone = pools.by_hand("name=alone", "rounds=1", "training.launch=process", "training.epochs=60")
    assert alone.returncode == 0, alone.stderr
    assert pools.published("placed") == pools.published("alone")
    weights = [folder_digest(pools.runs / name / "round-01" / "train" / "policy") for name in ("placed", "alone")]
    assert weights[0] == weights[1]


def test_ctrl_c_cancels_the_stage_and_errors_of_the_user_arrive(pools: Pools) -> None:
    pools.start_worker("gpu-pool")
    pools.start_worker("cpu-pool")
    run = pools.start_run("stopped", "training.epochs=20000")
    pools.until(lambda: bool(pools.processes("tasks.training.launch")), 240)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=limit(60)) == 130
    pools.until(lambda: not pools.processes("tasks.training.launch"), 60)

    refused = pools.by_hand("name=refused", *PLACES, "preferences.quorum=50")
    assert refused.returncode == 2
    assert "no preference pair is left" in refused.stderr
    assert "Traceback" not in refused.stderr + refused.stdout
