"""The three arms of the round benchmark, each a run of its own: the flow, its bare stage functions, a plain script."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from conf.compose import PROJECT
from storage.stage import TaskName
from tasks.modeling.vllm_process import environment

STAGES: tuple[str, ...] = get_args(TaskName)


@dataclass
class Rounds:
    """Seconds of each round but the first: wall clock, CPU of all processes, and wall clock by stage."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    between: list[float] = field(default_factory=list)  # flow only: seconds of its rounds outside of stages

    def extend(self, other: "Rounds") -> None:
        self.wall += other.wall
        self.cpu += other.cpu
        self.between += other.between
        for stage, seconds in other.stages.items():
            self.stages.setdefault(stage, []).extend(seconds)


def flow(arm: str, home: Path, rounds: int, seed: int) -> Rounds:
    """`durable` (the flow `irepo`) or `bare` (its stage functions), as benchmarks.chaos.arms runs them."""
    runs, figures = home / "runs", home / "figures.json"
    words = ["run=demo", f"seed={seed}", f"name={arm}", f"runs={runs}", f"rounds={rounds}"]
    command = [sys.executable, "-m", "benchmarks.chaos.arms", arm, str(figures), *words]
    _run(command, dict(os.environ) | {"PREFECT_HOME": str(home / "prefect")}, home / f"{arm}.log")
    found = json.loads(figures.read_text(encoding="utf-8"))
    result = Rounds(found["rounds"][1:], found["cpu"][1:])
    if arm == "durable":
        records = json.loads((runs / arm / "rounds.json").read_text(encoding="utf-8"))[2:]
        result.stages = {stage: [record["seconds"][stage] for record in records] for stage in STAGES}
        spent = [sum(record["seconds"].values()) for record in records]
        result.between = [wall - stages for wall, stages in zip(result.wall, spent, strict=True)]
    shutil.rmtree(runs)
    return result


def plain(home: Path, rounds: int, seed: int) -> Rounds:
    """The script: one process per stage, with the same environment for vLLM."""
    artifacts = PROJECT / "artifacts" / f"demo-{seed}"
    environ = environment(on_cpu=True, enforce_eager=True, tensor_parallel=1)
    result = Rounds(stages={stage: [] for stage in STAGES})
    policy = artifacts / "policy"
    _stage("evaluate", home / "0", policy, artifacts, environ)
    for number in range(1, rounds + 1):
        folder = home / str(number)
        wall = cpu = 0.0
        for stage in STAGES:
            if stage == "evaluate":
                policy = folder / "policy"
            seconds, spent = _stage(stage, folder, policy, artifacts, environ)
            wall, cpu = wall + seconds, cpu + spent
            if number > 1:
                result.stages[stage].append(seconds)
        if number > 1:
            result.wall.append(wall)
            result.cpu.append(cpu)
    return result


def _stage(stage: str, folder: Path, policy: Path, artifacts: Path, environ: dict[str, str]) -> tuple[float, float]:
    folder.mkdir(parents=True, exist_ok=True)
    words = [stage, str(folder), str(policy), str(artifacts)]
    return _run([sys.executable, "-m", "benchmarks.round.plain", *words], environ, folder / f"{stage}.log")


def _run(command: list[str], environ: dict[str, str], log: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command and its children. Raises RuntimeError with the end of its log."""
    before, clock = os.times(), time.monotonic()
    with open(log, "wb") as file:
        done = subprocess.run(command, cwd=PROJECT, env=environ, stdout=file, stderr=subprocess.STDOUT)
    wall, after = time.monotonic() - clock, os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-4000:]}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, spent
