"""Votes as arrays, rankings result in them, and the estimators without printed vectors: against brute force."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.arrays import Floats
from storage.schemas import VOTES, table
from tasks.labeling.aggregation import Votes, bradley_terry, read_votes, sigmoid
from tasks.labeling.aggregation.counts import pair_logits
from tasks.labeling.aggregation.davidson import davidson
from tasks.labeling.aggregation.dawid_skene import posterior_logits
from tasks.labeling.aggregation.ensembles import Ensemble, combine, standardise
from tasks.labeling.aggregation.general import general_preferences
from tasks.labeling.aggregation.plackett_luce import Rankings, plackett_luce, rankings, votes_to_rankings


def vote(prompt: str, a: int, b: int, outcome: str, who: str = "x", **more: object) -> dict[str, Any]:
    row = {"prompt_id": prompt, "source_a": "policy", "index_a": a, "source_b": "policy", "index_b": b}
    return row | {"annotator": who, "kind": "pairs", "outcome": outcome, "order": "ab"} | more


def read(rows: list[dict[str, Any]], **how: bool) -> Votes:
    return read_votes(table(rows, VOTES), pa.array(["p", "q"]), ("x", "y"), np.array([1.0, 2.0]), **how)


def test_votes_are_read_in_the_order_of_prompts_and_slots() -> None:
    votes = read(
        [
            vote("q", 2, 0, "a", "y"),
            vote("p", 0, 1, "a"),
            vote("p", 0, 1, "abstain"),
            vote("p", 1, 2, "tie"),
            vote("p", 1, 0, "error"),
            vote("p", 2, 1, "b", probability=0.3),
        ]
    )
    np.testing.assert_array_equal(votes.prompt, [0, 0, 0, 1])
    np.testing.assert_array_equal(votes.first, [0, 1, 1, 0])
    np.testing.assert_array_equal(votes.second, [1, 2, 2, 2])
    np.testing.assert_array_equal(votes.share, [1, 0.5, 1, 0])
    np.testing.assert_array_equal(votes.weight, [1, 1, 1, 2])
    wins = votes.wins((2, 3))
    assert wins[0].tolist() == [[0, 1, 0], [0, 0, 1.5], [0, 0.5, 0]]
    assert wins[1, 2, 0] == 2  # the weight of y
    assert wins.sum() == 5
    assert len(votes.block(1, 2)) == 1
    assert votes.block(1, 2).prompt.tolist() == [0]


def test_soft_votes_are_shares_of_a_win() -> None:
    rows = [vote("p", 2, 1, "b", probability=0.3), vote("p", 1, 2, "a"), vote("p", 1, 2, "abstain", probability=0.9)]
    np.testing.assert_allclose(read(rows, soft=True).share, [0.7, 1.0])
    np.testing.assert_array_equal(read(rows).share, [1.0, 1.0])
    with pytest.raises(ValueError, match="probability"):
        read([vote("p", 0, 1, "a", probability=1.5)], soft=True)


def test_unlisted_names_are_refused() -> None:
    with pytest.raises(ValueError, match="not listed"):
        read([vote("p", 0, 1, "a", "z")])
    with pytest.raises(ValueError, match="not listed"):
        read([vote("r", 0, 1, "a")])


def ranking(order: list[int], prompt: str = "p", who: str = "x") -> list[dict[str, Any]]:
    pairs = [(a, b) for n, a in enumerate(order) for b in order[n + 1 :]]
    turned = [(a, b, "a") if n % 2 else (b, a, "b") for n, (a, b) in enumerate(pairs)]
    return [vote(prompt, a, b, outcome, who, kind="ranking") for a, b, outcome in turned]


def test_votes_to_rankings() -> None:
    rows = [*ranking([2, 0, 3, 1]), *ranking([3, 1], "q"), *ranking([1, 0, 2], "q", "y"), vote("p", 0, 1, "a", "y")]
    votes = read(rows)
    result, explained = votes_to_rankings(votes, 4)
    np.testing.assert_array_equal(result.order, [[2, 0, 3, 1], [3, 1, -1, -1], [1, 0, 2, -1]])
    np.testing.assert_array_equal(result.prompt, [0, 1, 1])
    np.testing.assert_array_equal(result.weight, [1, 1, 2])
    assert explained.sum() == 6 + 1 + 3
    assert not explained[votes.ranked == 0].any()


@pytest.mark.parametrize("change", ["tie", "gap", "circle"])
def test_incomplete_rankings_stay_votes(change: str) -> None:
    rows = ranking([2, 0, 1])
    if change == "tie":
        rows[0]["outcome"] = "tie"
    elif change == "gap":
        rows = ranking([2, 0, 1, 3])[1:]
    else:
        rows = [vote("p", a, b, "a", kind="ranking") for a, b in ((0, 1), (1, 2), (2, 0))]
    result, explained = votes_to_rankings(read(rows), 4)
    assert not len(result.prompt)
    assert not explained.any()


def test_items_merge_and_unusable_slots_do_not_count() -> None:
    votes = read([vote("p", 0, 2, "a"), vote("p", 0, 1, "a"), vote("p", 1, 2, "a"), vote("p", 2, 3, "a")])
    twins = np.array([[0, 1, 0, 3]] * 2)
    merged = votes.merged(twins, np.array([[True, True, True, False]] * 2))
    assert merged.wins((2, 4))[0, 0, 1] == 1  # slot 0 beat slot 1
    assert merged.wins((2, 4))[0, 1, 0] == 1  # slot 1 beat slot 2, which is item 0
    assert len(merged) == 2  # 0 against 2 is one item with itself; 3 is not usable


def test_rankings_are_refused_by_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="repeated"):
        plackett_luce(rankings([[[0, 0, 1]]]), (1, 3), prior_variance=2.0)
    with pytest.raises(ValueError, match="gap"):
        plackett_luce(rankings([[[0, -1, 1]]]), (1, 3), prior_variance=2.0)
    with pytest.raises(ValueError, match="absent"):
        plackett_luce(rankings([[[0, 1, 2]]]), (1, 3), prior_variance=2.0, mask=[[True, True, False]])
    with pytest.raises(ValueError, match="not strongly connected"):
        plackett_luce(rankings([[[0, 1, 2]]]), (1, 3))


def test_plackett_luce_errors_are_the_curvature() -> None:
    order = np.array([[[0, 1, 2, 3], [1, 0, 3, 2], [0, 2, -1, -1]]])
    fit = plackett_luce(rankings(order), (1, 4), prior_variance=2.0)

    def value(theta: Floats) -> float:
        total = -(theta**2).sum() / 4
        for row in order[0]:
            left = [k for k in row if k >= 0]
            while left:
                total += theta[left[0]] - np.log(np.exp(theta[left]).sum())
                left = left[1:]
        return float(total)

    _check_curvature(value, fit.theta[0], fit.covariance[0])


def test_a_weight_of_two_is_the_same_ranking_twice() -> None:
    once = rankings([[[0, 1, 2], [2, 0, 1]]])
    twice = rankings([[[0, 1, 2], [2, 0, 1], [2, 0, 1]]])
    heavy = Rankings(once.prompt, once.order, once.stages, np.array([1.0, 2.0]))
    fits = [plackett_luce(which, (1, 3), prior_variance=2.0) for which in (heavy, twice)]
    np.testing.assert_allclose(fits[0].theta, fits[1].theta, atol=1e-12)
    np.testing.assert_allclose(fits[0].covariance, fits[1].covariance, atol=1e-12)


def _check_curvature(value: Callable[[Floats], float], point: Floats, covariance: Floats) -> None:
    step = 1e-4 * np.eye(len(point))
    hessian = [
        [
            (value(point + a + b) - value(point + a - b) - value(point - a + b) + value(point - a - b)) / 4e-8
            for a in step
        ]
        for b in step
    ]
    np.testing.assert_allclose(covariance, np.linalg.inv(-np.array(hessian)), rtol=1e-3, atol=1e-5)
    slope = [(value(point + a) - value(point - a)) / 2e-4 for a in step]
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_davidson_errors_are_the_curvature_and_the_delta_method() -> None:
    wins = np.array([[0, 3, 4], [2, 0, 2], [1, 2, 0]], dtype=float)
    ties = np.array([[0, 1, 1], [1, 0, 2], [1, 2, 0]], dtype=float)
    fit = davidson([wins], [ties], prior_variance=2.0, tie_variance=1.0)

    def value(x: Floats) -> float:
        p, nu = np.exp(x[:3]), np.exp(x[3])
        total = -(x[:3] ** 2).sum() / 4 - x[3] ** 2 / 2
        for i in range(3):
            for j in range(3):
                if i != j:
                    norm = p[i] + p[j] + nu * np.sqrt(p[i] * p[j])
                    total += wins[i, j] * np.log(p[i] / norm)
                    total += ties[i, j] / 2 * np.log(nu * np.sqrt(p[i] * p[j]) / norm)
        return float(total)

    point = np.append(fit.strengths.theta[0], fit.log_nu[0])
    _check_curvature(value, point, fit.covariance[0])

    def effective(x: Floats) -> float:
        a, b, tie = np.exp(x[0]), np.exp(x[1]), np.exp(x[3] + (x[0] + x[1]) / 2)
        p = (a + tie / 2) / (a + b + tie)
        return float(np.log(p / (1 - p)))

    gap, se = fit.gaps(*(np.array([k]) for k in (0, 0, 1)))
    slope = np.array([(effective(point + d) - effective(point - d)) / 2e-5 for d in 1e-5 * np.eye(4)])
    assert gap[0] == pytest.approx(effective(point))
    assert se[0] == pytest.approx(np.sqrt(slope @ fit.covariance[0] @ slope), rel=1e-6)
    plain = davidson([wins], [ties])
    norm = 18.28097502
    total = 0.0
    p, nu = np.exp(plain.strengths.theta[0]), np.exp(plain.log_nu[0])
    for i in range(3):
        for j in range(3):
            if i != j:
                all_three = p[i] + p[j] + nu * np.sqrt(p[i] * p[j])
                total -= wins[i, j] * np.log(p[i] / all_three)
                total -= ties[i, j] / 2 * np.log(nu * np.sqrt(p[i] * p[j]) / all_three)
    assert total == pytest.approx(norm, abs=5e-9)


def test_davidson_without_ties_or_wins_needs_a_prior() -> None:
    with pytest.raises(ValueError, match="set tie_variance"):
        davidson([[[0, 3], [2, 0]]], np.zeros((1, 2, 2)))


def test_general_preferences_lie_between_strengths_and_single_pairs() -> None:
    wins = np.random.default_rng(0).integers(0, 7, (5, 4, 4)) * (1 - np.eye(4))
    i, j = np.triu_indices(4, 1)
    stiff = general_preferences(wins, prior_variance=2.0, cycle_variance=1e-7)
    ridge = bradley_terry(wins, prior_variance=2.0)
    for x in range(5):
        gap, se = ridge.gaps(np.full(6, x), i, j)
        np.testing.assert_allclose(stiff.logit[x, i, j], gap, atol=1e-5)
        np.testing.assert_allclose(stiff.se[x, i, j], se, atol=1e-5)
    loose = general_preferences(wins, prior_variance=1e-9, cycle_variance=3.0)  # each pair alone, ridge 3
    played = wins + wins.transpose(0, 2, 1)
    slope = wins - played * sigmoid(loose.logit) - loose.logit / 3
    np.testing.assert_allclose(slope[:, i, j], 0, atol=1e-6)
    circle = np.array([[[0, 9, 0], [0, 0, 9], [9, 0, 0]]], dtype=float)
    kept = general_preferences(circle, prior_variance=2.0, cycle_variance=0.5).logit[0]
    assert kept[0, 1] > 0.5
    assert kept[1, 2] > 0.5
    assert kept[2, 0] > 0.5
    np.testing.assert_allclose(bradley_terry(circle, prior_variance=2.0).theta, 0, atol=1e-12)


def test_posterior_logits_are_weighted_by_accuracy_and_bounded() -> None:
    votes = read([vote("p", 0, 1, "a"), vote("p", 0, 1, "b", "y"), vote("p", 1, 2, "a"), vote("q", 2, 0, "a", "y")])
    unit = replace(votes, weight=np.ones(4))
    fit = posterior_logits(unit, (2, 3), np.array([0.8, 0.6]), np.array([100.0, 50.0]))
    assert fit.logit[0, 0, 1] == pytest.approx(np.log(4) - np.log(1.5))
    assert fit.logit[0, 1, 0] == -fit.logit[0, 0, 1]
    assert fit.logit[0, 1, 2] == pytest.approx(np.log(3))  # one vote: no further than 0.5 / 2 from certainty
    assert fit.logit[1, 0, 2] == pytest.approx(-np.log(1.5))
    assert np.isnan(fit.logit[0, 0, 2])
    assert fit.se[0, 0, 1] == pytest.approx(np.sqrt(1 / (100 * 0.16) + 1 / (50 * 0.24)))


def test_ensembles_standardise_over_all_responses() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal([3, -50, 0], [1, 20, 0], (40, 4, 3))
    members = standardise(scores)
    np.testing.assert_allclose(members.reshape(-1, 3).mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(members.reshape(-1, 3).std(axis=0), [1, 1, 0], atol=1e-12)
    fit = Ensemble(combine(members, "mean"), members)
    gap, se = fit.gaps(np.array([3]), np.array([0]), np.array([2]))
    apart = members[3, 0] - members[3, 2]
    assert gap[0] == pytest.approx(apart.mean())
    assert se[0] == pytest.approx(apart.std(ddof=1) / np.sqrt(3))


def test_single_pairs_have_the_empirical_logit() -> None:
    logits = pair_logits(np.array([[[0, 4.0], [1, 0]]]))
    gap, se = logits.gaps(*(np.array([k]) for k in (0, 1, 0)))
    assert gap[0] == pytest.approx(np.log(1.5 / 4.5))
    assert se[0] ** 2 == pytest.approx(0.888889, abs=5e-7)
