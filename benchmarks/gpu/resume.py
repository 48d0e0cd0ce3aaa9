"""A train stage as its command: undisturbed twice, and killed after its third step and resumed."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.stage import write_spec

if TYPE_CHECKING:
    from tasks.training.settings import TrainSpec

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"cuda": 180.0, "cpu": 1800.0}  # seconds for one attempt; a CPU may be busy with other work
KILL_AFTER = 3  # steps; the checkpoint is that of step 2


class StageFailed(Exception):
    """A train stage ended with another exit code than 0."""


def measure(bench: Bench) -> list[Row]:
    """Steps, seconds, and the largest differences of losses (relative) and weights from the first undisturbed run."""
    with tempfile.TemporaryDirectory(prefix="irepo-gpu-") as folder:
        specs = {arm: write_spec(Path(folder), arm, bench) for arm in ("undisturbed", "again", "killed")}
        rows: list[Row] = []
        for arm, spec in specs.items():
            started = time.monotonic()
            if arm == "killed":
                _run(spec, LIMITS[bench.device], kill_after=KILL_AFTER)
            _run(spec, LIMITS[bench.device])
            first = specs["undisturbed"]
            losses = [_losses(each) for each in (first, spec)]
            weights = [load_file(each.folder / "policy" / "model.safetensors") for each in (first, spec)]
            rows.append(
                {
                    "run": arm,
                    "steps": len(losses[1]),
                    "seconds": time.monotonic() - started,
                    "loss, relative": max(abs(b - a) / abs(a) for a, b in zip(*losses, strict=True)),
                    "weights": max(_largest(weights[0][name], weights[1][name]) for name in weights[0]),
                }
            )
    return rows


def _run(spec: "TrainSpec", limit: float, *, kill_after: int | None = None) -> None:
    """Run the stage to its end, or until it is killed after some steps.

    Raises StageFailed for another end, TimeoutExpired after `limit` seconds.
    """
    command = [sys.executable, "-m", "benchmarks.gpu.stage", str(spec.folder.with_suffix(".yaml"))]
    if kill_after is not None:
        command.append(str(kill_after))
    code = subprocess.run(command, cwd=ROOT, timeout=limit).returncode
    expected = 0 if kill_after is None else -signal.SIGKILL
    if code != expected:
        raise StageFailed(f"the stage ended with exit code {code}, not {expected}")


def _losses(spec: "TrainSpec") -> list[float]:
    lines = (spec.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(json.loads(line)["loss"]) for line in lines]


def _largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max())
