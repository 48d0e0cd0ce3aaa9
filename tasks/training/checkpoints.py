"""Checkpoints inside an unfinished stage: all that is needed to go on and end with the same bytes.

`checkpoints/step-000016/` holds the trained parameters and the optimizer's state as safetensors, and `checkpoint.json`:
which work it belongs to, the step, the metrics so far, and every file's digest. The data position and the learning rate
are functions of the step. A folder without a record that holds is no checkpoint.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import nn

from storage.files import digest, publish_folder, publish_text, sweep_temporaries
from storage.manifest import BrokenManifest, FileEntry
from tasks.training.distributed import ALONE, Ranks
from tasks.training.metrics import StepMetrics
from tasks.training.optimizer import load_optimizer, optimizer_tensors
from tasks.training.settings import CHECKPOINTS
from tasks.training.sharding import placed_like, whole

log = logging.getLogger("irepo")

KEPT = 2
_RECORD = "checkpoint.json"
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_GENERATORS = "generators.safetensors"


class Checkpoint(BaseModel):
    """The record of a checkpoint. `step` optimizer steps were done; `metrics` are theirs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    step: int
    epoch: int  # of the next step
    window: int  # of the next step, within its epoch
    metrics: list[StepMetrics]
    files: list[FileEntry]
    memory: dict[str, float] = {}  # what the objective carries from step to step
    digest: str = ""

    def own_digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"digest"}))

    @classmethod
    def read(cls, folder: Path, key: str) -> Self:
        """Raises BrokenManifest, saying why, unless `folder` is a whole checkpoint of the work `key`."""
        path = folder / _RECORD
        try:
            record = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BrokenManifest(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
        if record.digest != record.own_digest():
            raise BrokenManifest(f"{path} was altered: its own digest does not hold")
        if record.key != key:
            raise BrokenManifest(f"{path} belongs to other settings or inputs")
        for entry in record.files:
            entry.check(folder)
        return record


def save_checkpoint(
    stage: Path,
    *,
    key: str,
    position: tuple[int, int],
    metrics: list[StepMetrics],
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    memory: Mapping[str, float],
    ranks: Ranks = ALONE,
) -> None:
    """Publish the state after the last of `metrics`, then remove all but the newest KEPT checkpoints.

    `position`: epoch, and window within it, of the next step (both from 0). A checkpoint is whole, however many ranks
    hold the shards of what is in it: as many or others can go on from it.
    """
    step, (epoch, window) = len(metrics), position
    weights = gathered(parameters, ranks)
    state = gathered(optimizer_tensors(optimizer, parameters), ranks)

    def publish() -> None:
        with publish_folder(stage / CHECKPOINTS / f"step-{step:06d}") as temporary:
            save_file(weights, temporary / _WEIGHTS)
            save_file(state, temporary / _OPTIMIZER)
            save_file(_generators(), temporary / _GENERATORS)
            files = [FileEntry.of(temporary, temporary / name) for name in (_GENERATORS, _OPTIMIZER, _WEIGHTS)]
            record = Checkpoint(
                key=key, step=step, epoch=epoch, window=window, metrics=metrics, files=files, memory=dict(memory)
            )
            record = record.model_copy(update={"digest": record.own_digest()})
            publish_text(temporary / _RECORD, record.model_dump_json())
        for old in list(_newest_first(stage))[KEPT:]:
            shutil.rmtree(old)

    ranks.by_main(publish)


def gathered(tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor]:
    """The tensors, whole: where they are, or, gathered from several ranks, on the main one's CPU and nowhere else."""
    if ranks.size == 1:
        return {name: value.detach().contiguous() for name, value in tensors.items()}
    result = {}
    for name, value in tensors.items():
        full = whole(value.detach())
        if ranks.main:
            result[name] = full.cpu().contiguous()
    return result


def resume(
    stage: Path,
    *,
    key: str,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    ranks: Ranks = ALONE,
) -> tuple[list[StepMetrics], dict[str, float]]:
    """Load the newest valid checkpoint of the work `key`; the metrics of its steps, and the objective's memory.

    Both are empty when there is none. Checkpoints that are cut, altered or of other work are logged and removed.
    """
    found = ranks.by_main(lambda: _newest(stage, key))
    if found is None:
        return [], {}
    folder, record = found
    weights = load_file(folder / _WEIGHTS)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(placed_like(weights[name], parameter))
    load_optimizer(optimizer, parameters, load_file(folder / _OPTIMIZER))
    _restore_generators(load_file(folder / _GENERATORS))
    log.info("training goes on after step %d", record.step)
    return record.metrics, record.memory


def _newest(stage: Path, key: str) -> tuple[Path, Checkpoint] | None:
    if (stage / CHECKPOINTS).is_dir():
        sweep_temporaries(stage / CHECKPOINTS)
    for folder in _newest_first(stage):
        try:
            return folder, Checkpoint.read(folder, key)
        except BrokenManifest as broken:
            log.warning("checkpoint %s is passed over: %s", folder.name, broken)
            shutil.rmtree(folder)
    return None


def remove_checkpoints(stage: Path) -> None:
    """Remove all checkpoints: the stage is done, and they are no part of what it published."""
    shutil.rmtree(stage / CHECKPOINTS, ignore_errors=True)


def _newest_first(stage: Path) -> Iterator[Path]:
    return iter(sorted((stage / CHECKPOINTS).glob("step-*"), reverse=True))


def _generators() -> dict[str, torch.Tensor]:
    """States of torch's random generators. Nothing in the loop draws from them today; a resumed run must not care."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _restore_generators(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda:{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{i}"], i)
