"""(b) Our numbers against those of choix and crowd-kit, on the models that both have."""

import warnings

import numpy as np

from benchmarks.aggregation.libraries import crowdkit, label_frame, win_list
from storage.arrays import Floats
from tasks.labeling.aggregation import bradley_terry
from tasks.labeling.aggregation.dawid_skene import dawid_skene
from tasks.labeling.aggregation.plackett_luce import plackett_luce, rankings

_PROBLEMS, _ITEMS = 20, 6
_ALPHA = 0.25  # choix's ridge: 1 / (2 v) for the prior variance v = 2
_TOLERANCE = 1e-12


def largest_differences(seed: int = 0) -> dict[str, float]:
    """Largest absolute difference in strengths (logits), or in posteriors and accuracies, by model and library."""
    import choix
    import pandas

    rng = np.random.default_rng(seed)
    wins = rng.integers(1, 9, (_PROBLEMS, _ITEMS, _ITEMS)) * (1 - np.eye(_ITEMS))
    order = np.stack([[rng.permutation(_ITEMS) for _ in range(15)] for _ in range(_PROBLEMS)])
    lists = [win_list(problem) for problem in wins]
    ranked = [[tuple(row) for row in problem] for problem in order.tolist()]
    frames = [pandas.DataFrame([(i, j, i) for i, j in pairs], columns=["left", "right", "label"]) for pairs in lists]
    terry = crowdkit("pairwise.bradley_terry").BradleyTerry
    scores = np.log([terry(n_iter=3000, tol=0.0).fit_predict(frame).sort_index() for frame in frames])
    ridge, plain = bradley_terry(wins, prior_variance=2.0).theta, bradley_terry(wins).theta
    shape = (_PROBLEMS, _ITEMS)
    luce, luce_plain = plackett_luce(rankings(order), shape, prior_variance=2.0), plackett_luce(rankings(order), shape)
    result = {
        "Bradley-Terry, ridge: choix": ridge - [_opt_pairwise(pairs) for pairs in lists],
        "Bradley-Terry: choix": plain - [choix.ilsr_pairwise(_ITEMS, pairs, tol=1e-11) for pairs in lists],
        "Bradley-Terry: crowd-kit": plain - (scores - scores.mean(axis=1, keepdims=True)),
        "Plackett-Luce, ridge: choix": luce.theta - [_opt_rankings(rows) for rows in ranked],
        "Plackett-Luce: choix": luce_plain.theta - [choix.ilsr_rankings(_ITEMS, rows, tol=1e-11) for rows in ranked],
    }
    return {name: float(np.abs(value).max()) for name, value in result.items()} | _dawid_skene(rng)


def _opt_pairwise(pairs: list[tuple[int, int]]) -> Floats:
    """choix's Bradley-Terry with a ridge, by Newton's method."""
    import choix

    theta: Floats = choix.opt_pairwise(_ITEMS, pairs, alpha=_ALPHA, method="Newton-CG", tol=_TOLERANCE)
    return theta


def _opt_rankings(rows: list[tuple[int, ...]]) -> Floats:
    """choix's Plackett-Luce with a ridge, by Newton's method."""
    import choix

    theta: Floats = choix.opt_rankings(_ITEMS, rows, alpha=_ALPHA, method="Newton-CG", tol=_TOLERANCE)
    return theta


def _dawid_skene(rng: np.random.Generator) -> dict[str, float]:
    truth = rng.random(60) < 0.55
    item, annotator = (x.ravel() for x in np.indices((60, 7)))
    right = rng.random(len(item)) < np.array([0.95, 0.9, 0.9, 0.85, 0.85, 0.8, 0.75])[annotator]
    share = (right == truth[item]).astype(np.float64)
    result = {}
    for coins, name in ((1, "OneCoinDawidSkene"), (2, "DawidSkene")):
        # Its tolerance is on the likelihood and would stop far from 1e-6, so run a fixed number of passes.
        model = getattr(crowdkit("classification.dawid_skene"), name)(n_iter=100, tol=-1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = model.fit_predict_proba(label_frame(item, annotator, share)).sort_index()
        ours = dawid_skene(
            item, annotator, share, coins=1 if coins == 1 else 2, pseudo_votes=0.0, fixed_prior=False, start="majority"
        )
        accuracy = np.array([model.errors_.loc[(k, 1), 1] for k in range(7)])
        apart = max(np.abs(ours.posterior - theirs[1].to_numpy()).max(), np.abs(ours.sensitivity - accuracy).max())
        result[f"Dawid-Skene, {'one coin' if coins == 1 else 'two coins'}: crowd-kit"] = float(apart)
    return result
