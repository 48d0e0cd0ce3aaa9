"""A round whose judge is as slow as its sampling: how long responses and votes take apart, and with overlap.

    python -m benchmarks.overlap            # three minutes, hardly any processor time

Sampling is paced, a shard of two prompts a second. The judge is an endpoint of this machine with the latency of a
provider's (benchmarks/overlap/endpoint.py); its requests in flight are such that all votes take as long as sampling.
Prints a table, writes benchmarks/results/overlap.json, and leaves with 1 when the overlapped round takes more than 1.1
times the longer of the two stages, when a question is asked twice, or when votes differ.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.overlap.endpoint import MEAN
from benchmarks.overlap.engine import PacedSettings
from benchmarks.report import Report
from benchmarks.tiny import build_policy
from flows.operations.temporary_server import free_port
from storage.artifact import Artifact
from storage.schemas import PROMPTS, table, write_parquet
from tasks.generation import stage as generation
from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
from tasks.labeling import stage as labeling
from tasks.labeling.overlap import asked_ahead
from tasks.labeling.settings import LabelSettings, LabelSpec
from tasks.panel.annotators.registry import AnnotatorSettings

RESPONSES = 4
SHARD_PROMPTS, SHARD_SECONDS = 2, 1.0
LATENCY = 0.6  # seconds, median
REQUESTS = RESPONSES * (RESPONSES - 1)  # of a prompt: every pair, in both orders
CONCURRENCY = round(REQUESTS * SHARD_PROMPTS / SHARD_SECONDS * LATENCY * MEAN)  # requests in flight
MOST = 1.1


@dataclass(frozen=True)
class Arm:
    """One round: seconds of its two stages, and of both; requests that the endpoint got."""

    generate: float
    label: float
    both: float
    requests: int


class Judge:
    """The endpoint, in a process of its own."""

    def __init__(self, latency: float = LATENCY) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "benchmarks.overlap.endpoint", str(self.port), str(latency)]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.count()
                return
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    self.close()
                    raise
                time.sleep(0.1)

    def count(self) -> int:
        return int(httpx.get(f"http://127.0.0.1:{self.port}/count", trust_env=False).text)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def play(
    folder: Path, policy: Path, prompts: int, judge: Judge, *, overlap: bool, shard_seconds: float = SHARD_SECONDS
) -> Arm:
    """The responses and votes of one round, in `folder`."""
    rows = [
        {"prompt_id": f"{i:016x}", "messages": [{"role": "user", "content": f"Task {i}"}], "source": f"tasks:{i}"}
        for i in range(prompts)
    ]
    write_parquet(folder / "prompts.parquet", table(rows, PROMPTS))
    engine = PacedSettings(
        shard_prompts=SHARD_PROMPTS, verify_sequences=0, dtype="float32", max_model_len=256, seconds=shard_seconds
    )
    sampling = GenerateSpec(
        folder=folder / "generate",
        round=1,
        seed=0,
        settings=GenerationSettings(sampling=SamplingSettings(responses=RESPONSES, max_tokens=64), engine=engine),
        policy=Artifact.of(policy),
        prompts=Artifact.of(folder / "prompts.parquet"),
    )
    planned = label_spec(folder, judge, Artifact.planned(sampling.folder))
    beside: AbstractContextManager[None] = asked_ahead(planned, sampling) if overlap else nullcontext()
    before, started = judge.count(), time.monotonic()
    with beside:
        generation.run(sampling)
        sampled = time.monotonic()
    labeling.run(label_spec(folder, judge, Artifact.of_stage(sampling.folder)))
    ended = time.monotonic()
    return Arm(sampled - started, ended - sampled, ended - started, judge.count() - before)


def label_spec(folder: Path, judge: Judge, responses: Artifact) -> LabelSpec:
    settings = {
        "kind": "judge",
        "model": "judge",
        "base_url": f"http://127.0.0.1:{judge.port}/v1",
        "concurrency": CONCURRENCY,
    }
    panel: dict[str, AnnotatorSettings] = LabelSettings.model_validate({"annotators": {"judge": settings}}).annotators
    return LabelSpec(
        folder=folder / "label",
        round=1,
        seed=0,
        settings=LabelSettings(annotators=panel),
        responses=responses,
        prompts=Artifact.of(folder / "prompts.parquet"),
    )


def votes(folder: Path) -> pa.Table:
    return pq.read_table(folder / "label" / "votes.parquet").drop_columns(["seconds"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100)
    prompts = parser.parse_args().prompts
    report = Report()
    judge = Judge()
    try:
        with tempfile.TemporaryDirectory(prefix="irepo-overlap-") as name:
            folder = Path(name)
            policy = build_policy(folder / "policy", seed=0)
            play(folder / "warmup", policy, SHARD_PROMPTS, judge, overlap=True)  # what is imported and opened once
            apart = play(folder / "apart", policy, prompts, judge, overlap=False)
            together = play(folder / "together", policy, prompts, judge, overlap=True)
            same = votes(folder / "apart").equals(votes(folder / "together"))
    finally:
        judge.close()
    ratio = together.both / max(apart.generate, apart.label)
    shown = Table(
        title=f"{prompts} prompts, {RESPONSES} responses, latency {LATENCY} s (median), {CONCURRENCY} in flight"
    )
    for column in ("", "generate", "label after it", "both", "requests"):
        shown.add_column(column, justify="right" if column else "left")
    for title, arm in (("apart", apart), ("with overlap", together)):
        shown.add_row(
            title, *(f"{seconds:.1f} s" for seconds in (arm.generate, arm.label, arm.both)), str(arm.requests)
        )
    report.console.print(shown)
    report.say("with overlap / max(generate, label)", f"{ratio:.3f}", ratio <= MOST)
    report.say("with overlap / apart", f"{together.both / apart.both:.3f}", together.both < apart.both)
    report.say("requests", f"{together.requests} of {apart.requests}", together.requests == apart.requests)
    report.say("votes", "equal" if same else "differ", same)
    report.result = {"prompts": prompts, "apart": asdict(apart), "together": asdict(together), "ratio": ratio}
    return report.close("overlap", {"endpoint": "uvicorn on 127.0.0.1"})


if __name__ == "__main__":
    sys.exit(main())
