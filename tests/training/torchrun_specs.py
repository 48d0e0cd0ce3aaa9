"""Runs train specs one after another on all ranks, for test_torchrun.py."""

import sys
from pathlib import Path

from storage.stage import load_spec
from tasks.processes import die_with_parent
from tasks.training.distributed import joined
from tasks.training.settings import TrainSpec
from tasks.training.trainer import run

if __name__ == "__main__":
    die_with_parent()
    with joined("cpu"):
        for path in sys.argv[1:]:
            run(load_spec(Path(path), TrainSpec))
