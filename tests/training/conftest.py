"""Specs of small train stages."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.training.settings import OptimizationSettings, TrainingSettings, TrainSpec
from tests.training.preference_rows import preference_rows, write_preferences

MakeSpec = Callable[..., TrainSpec]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models run faster on one thread: on a busy machine, they mostly wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_spec(tmp_path: Path, tiny_policy: Path) -> MakeSpec:
    """Makes float32 train specs on the tiny policy: 12 prompts of 3 responses, 4 prompts per step."""

    def make(folder: str = "stage", **overrides: Any) -> TrainSpec:
        objective = overrides.pop("objective", {})
        objective = {"beta": 0.5, **objective} if "name" not in objective else objective
        objective = {"name": "irepo", **objective}
        optimization = {
            "learning_rate": 1e-3,
            "prompts_per_step": 4,
            "dtype": "float32",
            "device": "cpu",
            **overrides.pop("optimization", {}),
        }
        rows = overrides.pop("rows", None)
        path = tmp_path / "preferences.parquet"
        if rows is not None or not path.exists():
            write_preferences(path, rows or preference_rows(prompts=12, responses=3))
        fields = {
            "folder": tmp_path / folder,
            "round": 1,
            "seed": 7,
            "settings": TrainingSettings(objective=objective, optimization=OptimizationSettings(**optimization)),
            "policy": tiny_policy,
            "reference": tiny_policy,
            "preferences": path,
        }
        return TrainSpec(**{**fields, **overrides})

    return make
