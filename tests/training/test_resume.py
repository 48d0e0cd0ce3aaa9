"""A killed stage resumes and ends with the same bytes as an uninterrupted one."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.manifest import MANIFEST
from tasks.training.checkpoints import Checkpoint
from tasks.training.settings import CHECKPOINTS, TrainSpec
from tasks.training.trainer import run
from tests.training.conftest import MakeSpec

ROOT = Path(__file__).resolve().parents[2]
KILLED_AFTER = 6
#: Runs each stage in a fork that kills itself with SIGKILL after some optimizer steps. What a stage imports when it
#: runs is imported before, once for all.
RUN_AND_DIE = """
import os, signal, sys
from pathlib import Path
import accelerate, peft
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from storage.stage import load_spec
from tasks.training.settings import TrainSpec
from tasks.training.trainer import run

def progress(done, total, unit):
    if unit == "steps" and done == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

for path in sys.argv[2:]:
    child = os.fork()
    if not child:
        run(load_spec(Path(path), TrainSpec), progress)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


def files(spec: TrainSpec) -> dict[str, str]:
    """sha256 of all published files. metrics.jsonl holds no times, so its bytes must be equal too."""
    return {
        path.relative_to(spec.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in ("policy", "adapter", "reference.parquet", "metrics.jsonl")
        for path in sorted([spec.folder / name, *(spec.folder / name).rglob("*")])
        if path.is_file()
    }


def steps_of(spec: TrainSpec) -> list[int]:
    """Run the stage and return its optimizer steps."""
    steps: list[int] = []
    run(spec, lambda done, total, unit: steps.append(done) if unit == "steps" else None)
    return steps


def test_killed_and_resumed_equals_uninterrupted(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Full training, LoRA, and an objective with memory. The killed process has another hash seed."""
    common: dict[str, Any] = {"epochs": 3, "checkpoint_steps": 2, "weight_decay": 0.1}
    specs = []
    cases: dict[str, tuple[dict[str, int] | None, dict[str, str]]] = {
        "all": (None, {}),
        "lora": ({"rank": 2}, {}),
        "memory": (None, {"name": "beta-dpo"}),
    }
    for name, (lora, objective) in cases.items():
        whole, broken = (
            make_spec(f"{name}-{kind}", objective=objective, optimization=common | {"lora": lora})
            for kind in ("whole", "broken")
        )
        broken.save(tmp_path / f"{name}.yaml")
        specs.append((whole, broken))
    subprocess.run(
        [
            sys.executable,
            "-c",
            RUN_AND_DIE,
            str(KILLED_AFTER + 1),
            *(str(tmp_path / f"{name}.yaml") for name in cases),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
        check=True,
    )
    for whole, broken in specs:
        assert steps_of(whole) == list(range(1, 10))
        assert not (broken.folder / MANIFEST).exists()
        assert sorted(path.name for path in (broken.folder / CHECKPOINTS).iterdir()) == ["step-000004", "step-000006"]
        assert steps_of(broken) == list(range(KILLED_AFTER + 1, 10))
        assert files(broken) == files(whole)
        assert "policy/model.safetensors" in files(whole)
        assert not (broken.folder / CHECKPOINTS).exists()


class Stopped(Exception):
    pass


def stop_after(spec: TrainSpec, step: int) -> None:
    def progress(done: int, total: int, unit: str) -> None:
        if unit == "steps" and done == step:
            raise Stopped

    with pytest.raises(Stopped):
        run(spec, progress)


def cut_weights(checkpoint: Path) -> None:
    weights = checkpoint / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])


def alter_record(checkpoint: Path) -> None:
    record = checkpoint / "checkpoint.json"
    record.write_text(record.read_text().replace('"step":6', '"step":5'))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut weights": cut_weights,
    "altered record": alter_record,
    "no record": lambda checkpoint: (checkpoint / "checkpoint.json").unlink(),
    "missing file": lambda checkpoint: (checkpoint / "optimizer.safetensors").unlink(),
}


def test_damaged_checkpoint_is_skipped(make_spec: MakeSpec) -> None:
    optimization = {"epochs": 3, "checkpoint_steps": 2}
    stopped, whole = (make_spec(name, optimization=optimization) for name in ("stopped", "whole"))
    stop_after(stopped, 7)
    run(whole)
    for name, damage in DAMAGES.items():
        spec = make_spec(name, optimization=optimization)
        shutil.copytree(stopped.folder, spec.folder)
        damage(spec.folder / CHECKPOINTS / "step-000006")
        assert steps_of(spec) == [5, 6, 7, 8, 9], name
        assert files(spec) == files(whole), name


def test_checkpoints_of_other_settings_are_not_used(make_spec: MakeSpec) -> None:
    spec = make_spec(optimization={"checkpoint_steps": 1, "epochs": 2})
    stop_after(spec, 3)
    other = make_spec(optimization={"checkpoint_steps": 1, "epochs": 2, "learning_rate": 2e-3})
    assert steps_of(other) == [1, 2, 3, 4, 5, 6]


def test_record_holds_the_data_position(make_spec: MakeSpec) -> None:
    """With three windows per epoch, step 4 is followed by window 1 of epoch 1 (from 0)."""
    spec = make_spec(optimization={"checkpoint_steps": 4, "epochs": 3})
    stop_after(spec, 5)
    record = Checkpoint.read(spec.folder / CHECKPOINTS / "step-000004", spec.key())
    assert (record.step, record.epoch, record.window) == (4, 1, 1)
    assert [metrics.step for metrics in record.metrics] == [1, 2, 3, 4]
