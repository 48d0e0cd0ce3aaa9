"""Calibration of margins that are, by construction, calibrated or too confident; displacement by hand."""

import numpy as np
import pytest

from storage.arrays import Floats
from tasks.evaluation.calibration import calibration, displacement
from tasks.evaluation.intervals import Bootstrap

DRAW = Bootstrap(resamples=200, seed=1)


def chance(logits: Floats) -> Floats:
    p: Floats = 1 / (1 + np.exp(-logits))
    return p


def margins(n: int = 4000) -> tuple[Floats, list[str]]:
    return np.random.default_rng(2).normal(0, 1.2, n), [f"p{i // 4}" for i in range(n)]


def test_margins_that_are_the_logit_are_calibrated() -> None:
    logits, prompts = margins()
    result = calibration(logits, chance(logits), prompts, DRAW)
    assert result is not None
    assert result.slope.mean == pytest.approx(1, abs=1e-3)
    assert result.accuracy.mean == 1
    assert result.error.mean == pytest.approx(0, abs=1e-12)
    assert sum(count for _, _, count in result.bins) == 4000
    assert all(
        confidence == pytest.approx(preferred) and 0.5 <= confidence <= 1 for confidence, preferred, _ in result.bins
    )


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_policy_that_is_too_sure_has_a_slope_below_one(factor: float) -> None:
    logits, prompts = margins()
    result = calibration(factor * logits, chance(logits), prompts, DRAW)
    assert result is not None
    assert result.slope.mean == pytest.approx(1 / factor, rel=1e-3)
    by_hand = []
    for confidence, preferred, count in result.bins:
        assert (confidence > preferred) == (factor > 1)
        by_hand.append(count * abs(confidence - preferred))
    assert result.error.mean == pytest.approx(sum(by_hand) / 4000)


def test_votes_of_few_annotators_scatter_about_a_calibrated_policy() -> None:
    logits, prompts = margins(800)
    votes = np.random.default_rng(3).binomial(5, chance(logits)) / 5
    result = calibration(logits, votes, prompts, DRAW)
    assert result is not None
    assert result.slope.low < 1 < result.slope.high
    assert 0.6 < result.accuracy.mean < 0.95
    even = calibration(logits, np.full(800, 0.5), prompts, DRAW)
    assert even is None


def test_a_policy_that_did_not_move_is_right_half_of_the_time() -> None:
    prompts = [f"p{i}" for i in range(30)]
    result = calibration(np.zeros(30), np.full(30, 0.8), prompts, DRAW)
    assert result is not None
    assert (result.accuracy.mean, result.slope.mean) == (0.5, 0.0)
    ((confidence, preferred, pairs),) = result.bins
    assert (confidence, pairs) == (0.5, 30)
    assert preferred == pytest.approx(0.8)


def test_displacement_is_the_mean_change_where_the_panel_is_decided() -> None:
    prompts = ["p", "q", "r"]
    initial = np.array([[1.0, -2.0], [3.0, -4.0], [99.0, 99.0]])
    result = displacement(initial, initial / 2, np.array([0.9, 0.7, 0.5]), prompts, DRAW)
    assert result is not None
    assert (result.chosen_initial.mean, result.rejected_initial.mean) == (2.0, -3.0)
    assert (result.chosen_round.mean, result.rejected_round.mean) == (1.0, -1.5)
    assert result.chosen_initial.n == 2
    assert displacement(initial, initial, np.full(3, 0.5), prompts, DRAW) is None
