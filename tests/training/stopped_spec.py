"""Runs a train spec on all ranks and ends after its third checkpoint, for test_sharded.py."""

import os
import sys
from pathlib import Path

import torch

from storage.stage import load_spec
from tasks.processes import die_with_parent
from tasks.training import trainer
from tasks.training.checkpoints import save_checkpoint
from tasks.training.distributed import joined
from tasks.training.settings import TrainSpec


def save_and_end_at_three(*arguments: object, **options: object) -> None:
    save_checkpoint(*arguments, **options)  # type: ignore[arg-type]
    metrics = options["metrics"]
    if isinstance(metrics, list) and len(metrics) == 3:
        torch.distributed.barrier()
        os._exit(0)


if __name__ == "__main__":
    die_with_parent()
    trainer.save_checkpoint = save_and_end_at_three  # type: ignore[attr-defined]  # the name that the trainer calls
    with joined("cpu"):
        trainer.run(load_spec(Path(sys.argv[1]), TrainSpec))
