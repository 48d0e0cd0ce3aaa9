"""Stages in work pools, with real workers: a run over two pools, and what is killed in the middle of a stage."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.compose import PROJECT
from flows.operations.secret import SERVER, new_secret
from storage.artifact import Artifact
from storage.manifest import read_manifest
from storage.schemas import PROMPTS, table, write_parquet
from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
from tasks.generation.stage import run
from tests.cluster.echo_engine import EchoSettings
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


def sampling(folder: Path, policy: Path, *, seconds: float) -> GenerateSpec:
    """Eight shards of three prompts each, `seconds` a shard."""
    prompts = folder / "prompts.parquet"
    rows = [
        {"prompt_id": f"{i:016x}", "messages": [{"role": "user", "content": f"what is {i}?"}], "source": f"p.jsonl:{i}"}
        for i in range(24)
    ]
    write_parquet(prompts, table(rows, PROMPTS))
    engine = EchoSettings(shard_prompts=3, verify_sequences=0, dtype="float32", max_model_len=256, seconds=seconds)
    return GenerateSpec(
        folder=folder / "runs" / f"paced-{seconds}" / "round-01" / "generate",
        round=1,
        seed=5,
        settings=GenerationSettings(sampling=SamplingSettings(responses=2, max_tokens=32), engine=engine),
        policy=Artifact.of(policy),
        prompts=Artifact.of(prompts),
    )


def shards(spec: GenerateSpec) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(spec.folder.glob("responses-*.parquet"))}


@pytest.mark.parametrize("killed", ["process", "worker"])
def test_a_stage_goes_on_when_its_process_or_worker_is_killed(pools: Pools, tmp_path: Path, killed: str) -> None:
    spec = sampling(tmp_path, pools.policy, seconds=2.0)
    spec.folder.mkdir(parents=True)
    spec.save(spec.folder / "spec.yaml")
    worker = pools.start_worker("gpu-pool")
    placed = pools.start_program("tests.flows.place_stage", str(spec.folder), "gpu-pool")
    pools.until(lambda: len(shards(spec)) >= 2, 120)
    for process in [worker.pid] if killed == "worker" else pools.processes("prefect.engine"):
        os.kill(process, signal.SIGKILL)
    if killed == "worker":
        pools.until(lambda: not pools.processes("prefect.engine"), 15)
        pools.start_worker("gpu-pool")
    assert placed.wait(timeout=limit(300)) == 0, pools.log.read_text()[-4000:]
    assert "its process in the work pool gpu-pool died" in (spec.folder.parents[1] / "run.log").read_text()
    alone = sampling(tmp_path, pools.policy, seconds=0.0)
    run(alone)
    assert shards(spec) == shards(alone)


def test_stages_of_a_run_go_to_two_pools(pools: Pools) -> None:
    early = pools.by_hand("name=early", *PLACES)
    assert early.returncode == 2
    assert "there is no work pool 'gpu-pool'" in early.stderr
    assert "python -m flows.deploy worker gpu-pool" in early.stderr

    pools.start_worker("gpu-pool")
    pools.start_worker("cpu-pool")
    placed = pools.by_hand("name=placed", *PLACES)
    assert placed.returncode == 0, placed.stderr
    log = (pools.runs / "placed" / "run.log").read_text()
    assert log.count("works on") >= 5  # the run, and a process for every placed stage
    alone = pools.by_hand("name=alone", "rounds=1", "training.launch=process")
    assert alone.returncode == 0, alone.stderr
    assert pools.published("placed") == pools.published("alone")


def test_ctrl_c_cancels_the_stage_and_errors_of_the_user_arrive(pools: Pools) -> None:
    pools.start_worker("gpu-pool")
    pools.start_worker("cpu-pool")
    stopped = pools.start_run("stopped", "training.epochs=20000")
    pools.until(lambda: bool(pools.processes("tasks.training.launch")), 240)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(timeout=limit(60)) == 130
    pools.until(lambda: not pools.processes("tasks.training.launch"), 60)

    refused = pools.by_hand("name=refused", *PLACES, "preferences.quorum=50")
    assert refused.returncode == 2
    assert "no preference pair is left" in refused.stderr
    assert "Traceback" not in refused.stderr + refused.stdout
