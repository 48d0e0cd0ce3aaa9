"""Checkpoints inside an unfinished stage: a resumed stage ends with the same bytes as an uninterrupted one.

`checkpoints/step-000016/` holds the trained parameters and the optimizer state as safetensors, and `checkpoint.json`:
the stage's key, the step, the metrics so far, and the digest of every file. With several ranks each writes its own
shard by torch.distributed.checkpoint, which puts shards together again for any number of ranks. Data position and
learning rate follow from the step. A folder without a valid checkpoint.json is not a checkpoint.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import nn

from storage.files import digest, publish_text, sweep_temporaries
from storage.manifest import BrokenManifest, FileEntry
from tasks.training.distributed import ALONE, Ranks
from tasks.training.metrics import StepMetrics
from tasks.training.optimizer import empty_state, load_optimizer, optimizer_tensors
from tasks.training.settings import CHECKPOINTS
from tasks.training.shard_checkpoints import load_shards, save_shards, stored_names

log = logging.getLogger("irepo")

_RECORD = "checkpoint.json"
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_GENERATORS = "generators.safetensors"


class Checkpoint(BaseModel):
    """The content of checkpoint.json, after `step` optimizer steps with `metrics`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    step: int
    epoch: int  # of the next step
    window: int  # of the next step, within its epoch
    metrics: list[StepMetrics]
    files: list[FileEntry]
    memory: dict[str, float] = {}  # the objective's state between steps
    digest: str = ""

    def sealed(self) -> Self:
        """This record with its own digest."""
        return type(self)(**self.model_dump(exclude={"digest"}), digest=self.own_digest())

    def own_digest(self) -> str:
        """Digest of all other fields."""
        return digest(self.model_dump(mode="json", exclude={"digest"}))

    @classmethod
    def read(cls, folder: Path, key: str) -> Self:
        """The record in `folder`. Raises BrokenManifest unless it is complete, unaltered, and of the stage `key`."""
        path = folder / _RECORD
        try:
            record = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BrokenManifest(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
        if record.digest != record.own_digest():
            raise BrokenManifest(f"{path} was altered: its digest does not match")
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
    keep: int,
    ranks: Ranks = ALONE,
) -> None:
    """Publish the state after the last of `metrics`, then remove all but the newest `keep` checkpoints.

    `position`: epoch of the next step and its window within the epoch, both from 0. Training can resume with any
    number of ranks.
    """
    step, (epoch, window) = len(metrics), position
    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    state = optimizer_tensors(optimizer, parameters)
    with ranks.publish_folder(stage / CHECKPOINTS / f"step-{step:06d}") as temporary:
        if ranks.size == 1:
            save_file({name: value.contiguous() for name, value in weights.items()}, temporary / _WEIGHTS)
            save_file({name: value.contiguous() for name, value in state.items()}, temporary / _OPTIMIZER)
            names = [_OPTIMIZER, _WEIGHTS]
        else:
            names = save_shards(weights | state, temporary, ranks)
        entries = [FileEntry.of(temporary, temporary / name) for name in names]  # each rank's own: reading takes time
        files = [entry for own_entries in ranks.collected(entries) for entry in own_entries]

        def record() -> None:
            save_file(_generators(), temporary / _GENERATORS)
            content = Checkpoint(
                key=key,
                step=step,
                epoch=epoch,
                window=window,
                metrics=metrics,
                files=[FileEntry.of(temporary, temporary / _GENERATORS), *files],
                memory=dict(memory),
            )
            publish_text(temporary / _RECORD, content.sealed().model_dump_json())

        ranks.by_main(record)

    def remove_old() -> None:
        for old in list(_newest_first(stage))[keep:]:
            shutil.rmtree(old)

    ranks.by_main(remove_old)


class ResumedState(NamedTuple):
    """What training continues from, besides parameters and optimizer state. Empty without a checkpoint."""

    metrics: list[StepMetrics]
    memory: dict[str, float]


def resume(
    stage: Path,
    *,
    key: str,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    ranks: Ranks = ALONE,
) -> ResumedState:
    """Load the newest valid checkpoint of the stage `key` into `parameters` and `optimizer`.

    Truncated or altered checkpoints, and those of other settings or inputs, are logged and removed.
    """
    newest = ranks.by_main(lambda: _newest(stage, key))
    if newest is None:
        return ResumedState([], {})
    folder, record = newest
    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    state = empty_state(parameters, stored_names(folder))
    load_shards(weights | state, folder, ranks)  # into the parameters themselves
    load_optimizer(optimizer, parameters, state)
    _restore_generators(load_file(folder / _GENERATORS))
    log.info("training resumes after step %d", record.step)
    return ResumedState(record.metrics, record.memory)


def _newest(stage: Path, key: str) -> tuple[Path, Checkpoint] | None:
    if (stage / CHECKPOINTS).is_dir():
        sweep_temporaries(stage / CHECKPOINTS)
    for folder in _newest_first(stage):
        try:
            return folder, Checkpoint.read(folder, key)
        except BrokenManifest as broken:
            log.warning("checkpoint %s is skipped: %s", folder.name, broken)
            shutil.rmtree(folder)
    return None


def remove_checkpoints(stage: Path) -> None:
    """Remove all checkpoints of a finished stage; they are not part of its manifest."""
    shutil.rmtree(stage / CHECKPOINTS, ignore_errors=True)


def _newest_first(stage: Path) -> Iterator[Path]:
    return iter(sorted((stage / CHECKPOINTS).glob("step-*"), reverse=True))


def _generators() -> dict[str, torch.Tensor]:
    """States of torch's random generators, so that a resumed run draws the same numbers. Nothing draws today."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _restore_generators(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda:{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{i}"], i)
