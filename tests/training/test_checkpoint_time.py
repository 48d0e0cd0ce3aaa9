"""Checkpoints are saved by time as well as by steps."""

import itertools
import time

import pytest

from tasks.training import trainer
from tasks.training.checkpoints import Checkpoint
from tasks.training.settings import CHECKPOINTS
from tests.training.conftest import MakeSpec


class Stopped(Exception):
    pass


def test_a_round_of_few_long_steps_is_saved(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is two minutes later: with 5 minutes, steps 3 and 6 are saved."""
    spec = make_spec(optimization={"epochs": 3, "checkpoint_minutes": 5.0})
    assert spec.key() == make_spec("other", optimization={"epochs": 3}).key()
    minutes = itertools.count(0, 120)
    saved: list[int] = []

    def stop_after_eight(done: int, total: int, unit: str) -> None:
        if unit == "steps":
            folder = spec.folder / CHECKPOINTS
            saved[:] = sorted(Checkpoint.read(path, spec.key()).step for path in folder.glob("step-*"))
            if done == 8:
                raise Stopped

    with monkeypatch.context() as clock:
        clock.setattr(time, "monotonic", lambda: float(next(minutes)))
        with pytest.raises(Stopped):
            trainer.run(spec, stop_after_eight)
    assert saved == [3, 6]
    again: list[int] = []
    trainer.run(spec, lambda done, total, unit: again.append(done) if unit == "steps" else None)
    assert again == [7, 8, 9]
