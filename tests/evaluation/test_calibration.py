"""Calibration of margins that are, by construction, calibrated or too sure; displacement by hand."""

import numpy as np
import pytest

from tasks.evaluation.calibration import calibration, displacement

DRAWS = {"resamples": 200, "seed": 1}


def chance(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def made(n: int = 4000) -> tuple[np.ndarray, list[str]]:
    return np.random.default_rng(2).normal(0, 1.2, n), [f"p{i // 4}" for i in range(n)]


def test_margins_that_are_the_logit_are_calibrated() -> None:
    logits, prompts = made()
    found = calibration(logits, chance(logits), prompts, **DRAWS)
    assert found is not None
    assert found.slope.mean == pytest.approx(1, abs=1e-3)
    assert found.accuracy.mean == 1
    assert found.error.mean == pytest.approx(0, abs=1e-12)
    assert sum(count for _, _, count in found.bins) == 4000
    assert all(sure == pytest.approx(granted) and 0.5 <= sure <= 1 for sure, granted, _ in found.bins)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_policy_that_is_too_sure_has_a_slope_below_one(factor: float) -> None:
    logits, prompts = made()
    found = calibration(factor * logits, chance(logits), prompts, **DRAWS)
    assert found is not None
    assert found.slope.mean == pytest.approx(1 / factor, rel=1e-3)
    by_hand = []
    for sure, granted, count in found.bins:
        assert (sure > granted) == (factor > 1)
        by_hand.append(count * abs(sure - granted))
    assert found.error.mean == pytest.approx(sum(by_hand) / 4000)


def test_votes_of_few_annotators_scatter_about_a_calibrated_policy() -> None:
    logits, prompts = made(800)
    votes = np.random.default_rng(3).binomial(5, chance(logits)) / 5
    found = calibration(logits, votes, prompts, **DRAWS)
    assert found is not None
    assert found.slope.low < 1 < found.slope.high
    assert 0.6 < found.accuracy.mean < 0.95
    even = calibration(logits, np.full(800, 0.5), prompts, **DRAWS)
    assert even is None


def test_a_policy_that_did_not_move_is_right_half_of_the_time() -> None:
    prompts = [f"p{i}" for i in range(30)]
    found = calibration(np.zeros(30), np.full(30, 0.8), prompts, **DRAWS)
    assert found is not None
    assert (found.accuracy.mean, found.slope.mean) == (0.5, 0.0)
    assert found.bins == [(0.5, pytest.approx(0.8), 30)]


def test_displacement_is_the_mean_change_where_the_panel_is_decided() -> None:
    prompts = ["p", "q", "r"]
    initial = np.array([[1.0, -2.0], [3.0, -4.0], [99.0, 99.0]])
    found = displacement(initial, initial / 2, np.array([0.9, 0.7, 0.5]), prompts, **DRAWS)
    assert found is not None
    assert (found.chosen_initial.mean, found.rejected_initial.mean) == (2.0, -3.0)
    assert (found.chosen_round.mean, found.rejected_round.mean) == (1.0, -1.5)
    assert found.chosen_initial.n == 2
    assert displacement(initial, initial, np.full(3, 0.5), prompts, **DRAWS) is None
