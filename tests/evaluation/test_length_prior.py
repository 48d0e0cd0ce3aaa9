"""The prior of the length-controlled win rate hardly moves it, even with a dozen comparisons."""

import numpy as np
import pytest

from tasks.evaluation.intervals import Bootstrap
from tasks.evaluation.length import length_effect


def test_a_dozen_comparisons_are_not_pulled_to_one_half() -> None:
    """Ten wins of twelve at all lengths alike: the maximum-likelihood win rate is 10 / 12."""
    worth = [1.0] * 10 + [0.0] * 2
    delta = [-5.0, 5.0] * 6
    effect = length_effect(worth, delta, [f"p{i}" for i in range(12)], Bootstrap(resamples=100, seed=0))
    assert effect.controlled.mean == pytest.approx(10 / 12, abs=0.01)


def test_one_outcome_stays_finite() -> None:
    effect = length_effect([1.0] * 12, np.linspace(-9, 9, 12).tolist(), [f"p{i}" for i in range(12)],
                           Bootstrap(resamples=100, seed=0))  # fmt: skip
    assert 0.95 < effect.controlled.mean < 1
