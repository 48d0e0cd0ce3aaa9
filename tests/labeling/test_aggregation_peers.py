"""Bradley-Terry, Plackett-Luce and Dawid-Skene against choix and crowd-kit on random votes."""

from typing import Literal

import choix
import numpy as np
import pytest

from benchmarks.aggregation.libraries import crowdkit, label_frame, win_list
from storage.arrays import Floats, Ints
from tasks.labeling.aggregation import bradley_terry
from tasks.labeling.aggregation.dawid_skene import dawid_skene
from tasks.labeling.aggregation.plackett_luce import Rankings, plackett_luce, rankings


@pytest.fixture
def wins() -> Floats:
    return np.random.default_rng(0).integers(1, 6, (6, 5, 5)) * (1 - np.eye(5))


def test_bradley_terry_equals_choix_with_and_without_ridge(wins: Floats) -> None:
    ridge, plain = bradley_terry(wins, prior_variance=2.0).theta, bradley_terry(wins).theta
    for x in range(len(wins)):
        theirs = choix.opt_pairwise(5, win_list(wins[x]), alpha=1 / (2 * 2.0), method="Newton-CG", tol=1e-12)
        np.testing.assert_allclose(ridge[x], theirs, atol=1e-6)
        np.testing.assert_allclose(plain[x], choix.ilsr_pairwise(5, win_list(wins[x]), tol=1e-10), atol=1e-6)


def test_bradley_terry_equals_crowdkit(wins: Floats) -> None:
    import pandas

    model = crowdkit("pairwise.bradley_terry").BradleyTerry(n_iter=5000, tol=0.0)
    rows = [(i, j, i) for i, j in win_list(wins[0])]
    scores = model.fit_predict(pandas.DataFrame(rows, columns=["left", "right", "label"])).sort_index()
    theta = np.log(scores.to_numpy())
    np.testing.assert_allclose(bradley_terry(wins[:1]).theta[0], theta - theta.mean(), atol=1e-6)


def test_plackett_luce_equals_choix() -> None:
    rng = np.random.default_rng(1)
    order = np.stack([[rng.permutation(5) for _ in range(12)] for _ in range(4)])
    ridge = plackett_luce(rankings(order), (4, 5), prior_variance=2.0).theta
    plain = plackett_luce(rankings(order), (4, 5)).theta
    for x in range(4):
        rows = [tuple(row) for row in order[x].tolist()]
        theirs = choix.opt_rankings(5, rows, alpha=1 / (2 * 2.0), method="Newton-CG", tol=1e-12)
        np.testing.assert_allclose(ridge[x], theirs, atol=1e-6)
        np.testing.assert_allclose(plain[x], choix.ilsr_rankings(5, rows, tol=1e-10), atol=1e-6)


def test_partial_rankings_and_first_choices_equal_choix() -> None:
    """Rankings of three of five items; and rankings of which only the first place means something."""
    rng = np.random.default_rng(2)
    some = np.array([rng.permutation(5)[:3] for _ in range(40)])
    order = np.full((1, 40, 5), -1)
    order[0, :, :3] = some
    fit = plackett_luce(rankings(order), (1, 5), prior_variance=2.0).theta[0]
    rows = [tuple(row) for row in some.tolist()]
    np.testing.assert_allclose(fit, choix.opt_rankings(5, rows, alpha=0.25, method="Newton-CG", tol=1e-12), atol=1e-6)
    top = plackett_luce(rankings(order, np.ones((1, 40), int)), (1, 5), prior_variance=2.0).theta[0]
    choices = [(row[0], row[1:]) for row in some.tolist()]
    np.testing.assert_allclose(top, choix.opt_top1(5, choices, alpha=0.25, method="Newton-CG", tol=1e-12), atol=1e-6)


def test_rankings_of_two_are_bradley_terry(wins: Floats) -> None:
    pairs = np.array(win_list(wins[0]))
    ranked = Rankings(np.zeros(len(pairs), int), pairs, np.full(len(pairs), 2), np.ones(len(pairs)))
    padded = Rankings(ranked.prompt, np.pad(pairs, ((0, 0), (0, 3)), constant_values=-1), ranked.stages, ranked.weight)
    fit, same = plackett_luce(padded, (1, 5), prior_variance=2.0), bradley_terry(wins[:1], prior_variance=2.0)
    np.testing.assert_allclose(fit.theta, same.theta, atol=1e-9)
    np.testing.assert_allclose(fit.covariance, same.covariance, atol=1e-9)
    along = plackett_luce(
        padded.take(np.arange(len(pairs)) < 9), (1, 5), wins=_rest(wins[0], pairs[:9]), prior_variance=2.0
    )
    np.testing.assert_allclose(along.theta, same.theta, atol=1e-9)


def _rest(wins: Floats, without: Floats) -> Floats:
    rest = wins.copy()
    np.add.at(rest, tuple(without.T), -1)
    return rest[None]


@pytest.fixture
def ballot() -> tuple[Floats, Floats, Floats]:
    """Six annotators of different accuracy on 50 items, some votes missing."""
    rng = np.random.default_rng(3)
    truth = rng.random(50) < 0.6
    item, annotator = np.indices((50, 6))
    right = rng.random((50, 6)) < np.array([0.95, 0.9, 0.9, 0.85, 0.8, 0.8])
    there = rng.random((50, 6)) < 0.9
    there[:, 0] = True
    return item[there], annotator[there], (right == truth[:, None]).astype(float)[there]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("coins", "name"), [(1, "OneCoinDawidSkene"), (2, "DawidSkene")])
def test_dawid_skene_equals_crowdkit(ballot: tuple[Ints, Ints, Floats], coins: Literal[1, 2], name: str) -> None:
    # As many passes as bring it within 1e-6; it would stop at a tolerance of the likelihood, far from there.
    model = getattr(crowdkit("classification.dawid_skene"), name)(n_iter=60, tol=-1.0)
    theirs = model.fit_predict_proba(label_frame(*ballot)).sort_index()
    ours = dawid_skene(*ballot, coins=coins, pseudo_votes=0.0, fixed_prior=False, start="majority")
    np.testing.assert_allclose(ours.posterior, theirs[1].to_numpy(), atol=1e-6)
    errors = model.errors_
    np.testing.assert_allclose(ours.sensitivity, [errors.loc[(k, 1), 1] for k in range(6)], atol=1e-6)
    np.testing.assert_allclose(ours.specificity, [errors.loc[(k, 0), 0] for k in range(6)], atol=1e-6)
