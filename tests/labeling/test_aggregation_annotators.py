"""Estimates about annotators (honesty, identifiability, groups) and the fits that use them, against known truth."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.tabular.world import World, cast_votes, make_world
from storage.arrays import Floats
from tasks.labeling.aggregation import Votes, bradley_terry, sigmoid
from tasks.labeling.aggregation.crowd_bt import crowd_bt
from tasks.labeling.aggregation.groups import annotator_groups, worst_off
from tasks.labeling.aggregation.reliability import Reliability, estimate_reliability, snap
from tasks.labeling.aggregation.vote_counts import count_votes, sample
from tasks.labeling.aggregation.votes import concatenate
from tasks.labeling.summary import AnnotatorReliability

SLOTS = 5


def panel(honesty: list[float], prompts: int = 80, seed: int = 0) -> tuple[World, Votes]:
    rng = np.random.default_rng(seed)
    world = make_world(rng, prompts, SLOTS)
    i, j = np.triu_indices(SLOTS, 1)
    pairs = np.repeat(np.arange(prompts), len(i)), np.tile(i, prompts), np.tile(j, prompts)
    return world, cast_votes(world, pairs, np.array(honesty), rng)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"n{k}" for k in range(count))


def reliability(votes: Votes, count: int, **how: object) -> Reliability:
    options: dict[str, Any] = {"prior_variance": 2.0, "min_votes": 100} | how
    return estimate_reliability(lambda: [(0, votes)], names(count), SLOTS, **options)


def test_honesty_is_recovered_and_snapped() -> None:
    _, votes = panel([1, 1, 1, 1, 0.75, 0.5, 0.0])
    result = reliability(votes, 7)
    np.testing.assert_allclose(result.eta, [1, 1, 1, 1, 0.75, 0.5, 0.0], atol=0.08)
    np.testing.assert_array_equal(result.used[[0, 1, 2, 3, 5, 6]], [1, 1, 1, 1, 0.5, 0])
    assert result.not_identified == {}
    estimate = result.summary().annotators["n5"]
    assert estimate == AnnotatorReliability(eta=float(result.eta[5]), used=0.5, votes=800, shared=800)


def test_unsnapped_rule_stays_within_its_bounds() -> None:
    _, votes = panel([1, 1, 1, 1, 0.75, 0.5, 0.0])
    result = reliability(votes, 7, rule="lcpo")
    np.testing.assert_allclose(result.used, [0.99, 0.99, 0.99, 0.99, 0.75, 0.5, 0.5], atol=0.08)
    assert result.used.max() <= 0.999
    assert result.used.min() >= 0.5


def test_snap() -> None:
    np.testing.assert_array_equal(snap(np.array([0.95, 0.85, 0.55, 0.45, 0.3, 0.05])), [1, 0.85, 0.5, 0.5, 0.3, 0])


def test_too_few_votes_are_named_and_count_in_full() -> None:
    _, votes = panel([1, 1, 1, 0.5])
    rare = (votes.annotator != 3) | (np.arange(len(votes)) < 160)
    result = reliability(votes.take(rare), 4)
    assert list(result.not_identified) == ["n3"]
    assert result.not_identified["n3"].startswith("40 of its 40 decided votes are on pairs")
    assert np.isnan(result.eta[3])
    assert result.used[3] == 1


def test_annotators_without_common_pairs_are_named() -> None:
    """Two pairs of annotators on different prompts: neither shows which of the two is wrong."""
    _, votes = panel([1, 1, 1, 0.5])
    apart = votes.take((votes.prompt < 40) == (votes.annotator < 2))
    result = reliability(apart, 4)
    assert sorted(result.not_identified) == ["n0", "n1", "n2", "n3"]
    assert "1 other annotators" in result.not_identified["n0"]
    np.testing.assert_array_equal(result.used, 1)
    # A known one among two is enough.
    assert sorted(reliability(apart, 4, pinned={"n2": 1.0}).not_identified) == ["n0", "n1"]
    single = votes.take(votes.prompt % 4 == votes.annotator)  # nobody shares a pair
    assert "0 of its" in reliability(single, 4).not_identified["n0"]


def test_pinned_annotators_define_the_truth() -> None:
    """An honest minority: the majority reverses its votes. Only the pinned one says which side is right."""
    _, votes = panel([1, 1, 0, 0, 0])
    assert reliability(votes, 5).used.tolist() == [0, 0, 1, 1, 1]
    assert reliability(votes, 5, pinned={"n0": 1.0}).used.tolist() == [1, 1, 0, 0, 0]


def test_gold_measures_agreement_with_it() -> None:
    _, votes = panel([1, 1, 0.0, 0.0, 0.0])
    result = reliability(votes, 5, gold=("n0",))
    gold = votes.share[votes.annotator == 0]
    agreed = [(votes.share[votes.annotator == k] == gold).sum() for k in range(1, 5)]
    np.testing.assert_allclose(result.eta[1:], (np.array(agreed) + 3) / (800 + 3), atol=1e-9)  # Beta(4, 1) prior


def test_unknown_names_are_refused() -> None:
    _, votes = panel([1, 1, 1])
    with pytest.raises(ValueError, match=r"there are no votes of annotators \['nobody'\]"):
        reliability(votes, 3, pinned={"nobody": 1.0})


def test_ties_do_not_change_the_honesty() -> None:
    _, votes = panel([1, 1, 1, 0.5])
    tied = replace(votes, share=np.where(votes.prompt < 20, 0.5, votes.share))
    without = votes.take(votes.prompt >= 20)
    np.testing.assert_allclose(reliability(tied, 4).eta, reliability(without, 4).eta, atol=1e-9)


def test_blocks_change_nothing() -> None:
    _, votes = panel([1, 1, 0.8, 0.5])
    parts = [(start, votes.block(start, start + 7)) for start in range(0, 80, 7)]
    options: dict[str, Any] = {"prior_variance": 2.0, "min_votes": 100}
    result = estimate_reliability(lambda: parts, names(4), SLOTS, **options)
    np.testing.assert_allclose(result.eta, reliability(votes, 4).eta, atol=1e-12)
    np.testing.assert_array_equal(count_votes(lambda: parts, names(4), SLOTS).component, 0)


def test_sample_is_bounded_and_keeps_rare_annotators_whole() -> None:
    _, votes = panel([1, 1, 1], prompts=400)
    votes = votes.take((votes.annotator != 2) | (votes.prompt % 40 == 3))
    blocks = [(start, votes.block(start, start + 64)) for start in range(0, 400, 64)]
    counts_of_votes = count_votes(lambda: blocks, names(3), SLOTS)
    kept = sample(lambda: blocks, counts_of_votes, np.ones(3, bool), 400)
    counts = np.bincount(kept.annotator)
    assert counts[2] == 100  # all of its votes
    assert 400 <= counts[0] <= 520  # a tenth of 4000, and the prompts of the rare one
    assert (np.diff(kept.prompt) >= 0).all()
    assert kept.prompt.max() + 1 == len(np.unique(kept.prompt))


def test_crowd_bt_is_the_maximum_of_the_posterior() -> None:
    """Against the log-posterior written out vote by vote."""
    _, votes = panel([1, 0.8, 0.3, 0.0, 0.5], prompts=1, seed=3)
    honesty = np.array([1, 0.8, 0.3, 0.0, 0.5])
    fit = crowd_bt(votes, (1, SLOTS), honesty, prior_variance=2.0)

    def log_posterior(theta: Floats) -> float:
        p = sigmoid(theta[votes.first] - theta[votes.second])
        eta = honesty[votes.annotator]
        observed = eta * p + (1 - eta) * (1 - p)
        return float(np.log(np.where(votes.share == 1, observed, 1 - observed)).sum() - (theta**2).sum() / 4)

    best = log_posterior(fit.theta[0])
    rng = np.random.default_rng(0)
    for size in (0.01, 0.3):
        assert all(log_posterior(fit.theta[0] + rng.normal(0, size, SLOTS)) < best for _ in range(300))


def test_standard_errors_of_crowd_bt_are_the_expected_information() -> None:
    _, votes = panel([1, 0.8, 0.3], prompts=1, seed=3)
    eta = np.array([1, 0.8, 0.3])[votes.annotator]
    fit = crowd_bt(votes, (1, SLOTS), np.array([1, 0.8, 0.3]), prior_variance=2.0)
    information = np.eye(SLOTS) / 2
    for k in range(len(votes)):
        direction = np.eye(SLOTS)[votes.first[k]] - np.eye(SLOTS)[votes.second[k]]
        p = float(sigmoid(direction @ fit.theta[0]))
        observed, slope = eta[k] * p + (1 - eta[k]) * (1 - p), (2 * eta[k] - 1) * p * (1 - p)
        information += slope**2 / (observed * (1 - observed)) * np.outer(direction, direction)
    np.testing.assert_allclose(fit.covariance[0], np.linalg.inv(information), rtol=1e-9)


def test_certain_annotators_are_plain_bradley_terry() -> None:
    _, votes = panel([1, 1, 0, 0.5])
    shape = (80, SLOTS)
    informative = votes.annotator != 3
    flipped = np.where(votes.annotator == 2, 1 - votes.share, votes.share)
    plain = bradley_terry(votes.wins(shape, flipped, informative.astype(float)), prior_variance=2.0)
    fit = crowd_bt(votes, shape, np.array([1, 1, 0, 0.5]), prior_variance=2.0)
    np.testing.assert_array_equal(fit.theta, plain.theta)
    np.testing.assert_array_equal(fit.covariance, plain.covariance)


def test_groups_that_want_opposite_things() -> None:
    world, own = panel([1, 1, 1], seed=1)
    other = World(np.roll(world.reward, 2, axis=1), world.initial)
    i, j = np.triu_indices(SLOTS, 1)
    pairs = np.repeat(np.arange(80), len(i)), np.tile(i, 80), np.tile(j, 80)
    other_votes = cast_votes(other, pairs, np.ones(3), np.random.default_rng(9))
    votes = concatenate([own, replace(other_votes, annotator=other_votes.annotator + 3)])
    votes = votes.take(np.argsort(votes.prompt, kind="stable"))
    for soft in (True, False):
        resp, share = annotator_groups(votes, (80, SLOTS), 6, 2, prior_variance=2.0, soft=soft)
        np.testing.assert_allclose(resp, np.repeat(np.eye(2), 3, axis=0), atol=1e-3)
        np.testing.assert_allclose(share, 0.5, atol=1e-3)
    lowest = worst_off(votes, (80, SLOTS), resp, prior_variance=2.0)
    alone = [bradley_terry(part.wins((80, SLOTS)), prior_variance=2.0) for part in (own, other_votes)]
    np.testing.assert_allclose(lowest.score, np.minimum(alone[0].theta, alone[1].theta), atol=1e-6)
    # The standard error where both minima are of one group, and where they are of two.
    _, se = lowest.gaps(np.arange(80), np.zeros(80, int), np.ones(80, int))
    group = lowest.group
    for x in range(80):
        if group[x, 0] == group[x, 1]:
            expected = alone[group[x, 0]].gaps(*(np.array([k]) for k in (x, 0, 1)))[1][0]
        else:
            variances = [alone[group[x, k]].covariance[x, k, k] for k in (0, 1)]
            expected = np.sqrt(sum(variances))
        assert se[x] == pytest.approx(expected, rel=1e-5)
