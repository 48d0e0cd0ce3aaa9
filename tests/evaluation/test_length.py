"""Length-controlled win rates: a brute-force maximum, and what must hold."""

import numpy as np
import pytest

from storage.arrays import Floats
from tasks.evaluation.intervals import Bootstrap
from tasks.evaluation.length import length_effect
from tasks.evaluation.logistic import fit, sigmoid

DRAW = Bootstrap(resamples=300, seed=3)


def test_a_fit_is_the_maximum_that_a_search_finds() -> None:
    rng = np.random.default_rng(0)
    design = np.stack([np.ones(40), rng.normal(size=40)], axis=1)
    labels = rng.choice([0.0, 0.5, 1.0], 40)
    weights = rng.integers(0, 3, size=(3, 40)).astype(float)
    result = fit(design, labels, weights, variance=10.0)
    for coefficients, weight in zip(result, weights, strict=True):

        def height(b: Floats, weight: Floats = weight) -> float:
            chance = 1 / (1 + np.exp(-design @ b))
            likelihood = weight * (labels * np.log(chance) + (1 - labels) * np.log(1 - chance))
            return float(likelihood.sum() - b @ b / 20)

        best, size = np.zeros(2), 1.0
        while size > 1e-9:  # a pattern search that knows nothing of derivatives
            near = [best + size * np.array(move) for move in ((1, 0), (-1, 0), (0, 1), (0, -1))]
            top = max(near, key=height)
            if height(top) > height(best):
                best = top
            else:
                size /= 2
        assert coefficients == pytest.approx(best, abs=1e-6)


def test_fits_of_one_outcome_stay_finite_and_equal_those_from_far_away() -> None:
    design, rng = np.ones((50, 1)), np.random.default_rng(1)
    weights = np.concatenate([np.ones((1, 50)), 1e4 * rng.random((1, 50)), np.zeros((1, 50))])
    result = fit(design, np.ones(50), weights)[:, 0]
    assert np.isfinite(result).all()
    assert result[2] == pytest.approx(0, abs=1e-9)
    for value, weight in zip(result[:2], weights[:2].sum(1), strict=True):
        assert weight * (1 - 1 / (1 + np.exp(-value))) == pytest.approx(value / 10, rel=1e-4)


def test_what_length_alone_won_is_taken_away() -> None:
    """A judge that votes for the longer reply, of a policy that is longer and no better."""
    rng = np.random.default_rng(5)
    prompts = [f"p{i // 2}" for i in range(3000)]
    delta = rng.normal(100, 100, 3000)
    strength, effect = 0.3, 1.5
    chance = 1 / (1 + np.exp(-(strength + effect * np.tanh(delta / delta.std(ddof=1)))))
    worth = (rng.random(3000) < chance).astype(float)
    result = length_effect(worth.tolist(), delta.tolist(), prompts, DRAW)
    assert worth.mean() > 0.7
    truth = 1 / (1 + np.exp(-strength))
    assert result.controlled.low < truth < result.controlled.high
    assert result.controlled.mean == pytest.approx(truth, abs=0.03)
    least_squares = np.polyfit(delta / delta.std(ddof=1), worth, 1)[0]
    assert result.slope.mean == pytest.approx(least_squares)
    assert result.slope.low > 0
    assert result.delta == pytest.approx(delta.mean())
    assert sum(count for _, _, count in result.bins) == 3000
    assert [at for at, _, _ in result.bins] == sorted(at for at, _, _ in result.bins)
    mirrored = length_effect((1 - worth).tolist(), (-delta).tolist(), prompts, DRAW)
    assert mirrored.controlled.mean == pytest.approx(1 - result.controlled.mean)


def test_even_scores_and_equal_lengths() -> None:
    prompts = [f"p{i}" for i in range(60)]
    ties = length_effect([0.5] * 60, list(range(60)), prompts, DRAW)
    assert (ties.controlled.mean, ties.controlled.low, ties.controlled.high) == pytest.approx((0.5, 0.5, 0.5))
    assert ties.slope.mean == pytest.approx(0)
    alike = length_effect([1.0, 0.0, 1.0] * 20, [7] * 60, prompts, DRAW)
    assert alike.controlled.mean == pytest.approx(2 / 3, abs=2e-3)
    assert (alike.slope.mean, alike.deviation) == (0.0, 0.0)
    ((longer, won, comparisons),) = alike.bins
    assert (longer, comparisons) == (7.0, 60)
    assert won == pytest.approx(2 / 3)
    always = length_effect([1.0] * 60, list(range(60)), prompts, DRAW)
    assert 0.97 < always.controlled.mean <= 1
    assert always.controlled.high <= 1
    alone = length_effect([1.0], [3], ["p"], DRAW)
    assert alone.bins == [(3.0, 1.0, 1)]


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
