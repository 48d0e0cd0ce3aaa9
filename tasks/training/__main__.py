"""Repeat a train stage by hand: `python -m tasks.training runs/<name>/round-01/train/spec.yaml`.

Always trains in this process, whatever `launch` says.
"""

from tasks.command import main
from tasks.training.settings import TrainSpec
from tasks.training.trainer import run

if __name__ == "__main__":
    main(TrainSpec, run)
