"""The tabular world: its optimum, its sampling, and the exact regression."""

import numpy as np
import pytest

from benchmarks.aggregation.people import calibration_error
from benchmarks.aggregation.tables import by_panel, by_votes
from benchmarks.tabular.regression import regress
from benchmarks.tabular.world import compared_pairs, count_votes, make_world, sample_groups, softmax
from storage.arrays import Floats


def test_the_optimum_is_reached_with_the_true_gaps() -> None:
    world = make_world(np.random.default_rng(0), 7, 6, beta=0.5)
    weight = np.ones((7, 6, 6)) - np.eye(6)
    ratio = regress(weight, world.gaps(), np.zeros((7, 6)), world.beta, ridge=1e-9)
    np.testing.assert_allclose(world.distance(softmax(world.initial + ratio)), 0, atol=1e-8)
    # It is the maximum of reward less beta KL: every other policy nearby is worse.
    star = world.optimum

    def worth(policy: Floats) -> Floats:
        value = policy * (world.reward - 0.5 * (np.log(policy) - np.log(softmax(world.initial))))
        total: Floats = value.sum(axis=1)
        return total

    rng = np.random.default_rng(1)
    for _ in range(50):
        assert (worth(softmax(np.log(star) + rng.normal(0, 0.1, star.shape))) < worth(star)).all()


def test_the_regression_is_the_least_of_its_loss() -> None:
    rng = np.random.default_rng(2)
    weight = rng.integers(0, 3, (1, 4, 4)) * (1 - np.eye(4))
    weight = weight + weight.transpose(0, 2, 1)
    target = rng.normal(size=(1, 4, 4))
    target = target - target.transpose(0, 2, 1)
    warm = rng.normal(size=(1, 4))

    def loss(f: Floats) -> float:
        gaps = 0.7 * (f[:, :, None] - f[:, None, :])
        return float((weight * (gaps - target) ** 2).sum() / 4 + 0.05 * ((f - warm) ** 2).sum() / 2)

    best = regress(weight, target, warm, 0.7, ridge=0.05)
    assert all(loss(best + rng.normal(0, 0.01, best.shape)) > loss(best) for _ in range(200))


def test_responses_are_drawn_from_the_policy() -> None:
    policy = np.array([[0.5, 0.3, 0.2]])
    groups = sample_groups(policy, np.random.default_rng(3), 5000, 4)
    np.testing.assert_allclose(np.bincount(groups.ravel(), minlength=3) / 20_000, policy[0], atol=0.012)


def test_pairs_and_votes() -> None:
    world = make_world(np.random.default_rng(4), 2, 5)
    groups = np.array([[[0, 1, 1, 4]], [[2, 2, 2, 2]]])
    prompt, first, second = pairs = compared_pairs(groups)
    assert sorted(zip(prompt.tolist(), first.tolist(), second.tolist(), strict=True)) == [
        *[(0, 0, 1)] * 2,
        (0, 0, 4),
        *[(0, 1, 4)] * 2,
    ]
    votes = count_votes(world, pairs, 40_000, np.random.default_rng(5))
    true = 1 / (1 + np.exp(-world.gaps()[prompt, first, second]))
    np.testing.assert_allclose(votes.share, true, atol=0.015)


def test_more_votes_come_nearer_and_reliability_undoes_adversaries() -> None:
    assert by_votes(1, 9)[-1].mean < by_votes(1, 1)[-1].mean < 0.2
    honesty = [1.0] * 6 + [0.0] * 3
    assert by_panel(1, honesty, "em", rounds=2)[-1].mean < 0.6 * by_panel(1, honesty, "none", rounds=2)[-1].mean


def test_calibration_error() -> None:
    p = np.array([0.95, 0.95, 0.35])
    assert calibration_error(p, np.array([1.0, 1.0, 0.0])) == pytest.approx((2 * 0.05 + 0.35) / 3)
    assert calibration_error(np.array([0.75] * 4), np.array([1.0, 1, 1, 0])) == pytest.approx(0)
