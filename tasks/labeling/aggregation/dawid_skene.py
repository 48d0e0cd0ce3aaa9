"""Dawid-Skene on pairwise votes: each pair has a better response, and each annotator recognises it with some accuracy.

Source: Dawid and Skene 1979. There are no strengths and no transitivity: only a pair's own votes count. Errors of
annotators are assumed to be independent; if they are not, the posterior is overconfident.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from storage.arrays import Floats, Ints
from tasks.labeling.aggregation.arrays import PairLogits, logit, sigmoid
from tasks.labeling.aggregation.votes import Votes

_ACCURACY = 0.7  # at the start


@dataclass(frozen=True)
class DawidSkene:
    """posterior [N]: probability that the first response of each item is better. Accuracies [A], NaN without votes."""

    posterior: Floats
    sensitivity: Floats  # probability of a vote for the first when the first is better
    specificity: Floats  # probability of a vote for the second when the second is better; equal with one coin
    prior: float
    passes: int


def dawid_skene(
    item: Ints,
    annotator: Ints,
    share: Floats,
    *,
    weight: Floats | None = None,
    coins: Literal[1, 2] = 1,
    pseudo_votes: float = 1.0,
    fixed_prior: bool = True,
    start: Literal["accuracy", "majority"] = "accuracy",
    pinned: Floats | None = None,
    tolerance: float = 1e-10,
    passes: int = 10_000,
) -> DawidSkene:
    """Fit by expectation-maximisation to votes [n]: `share` in [0, 1] of vote v on item[v] goes to its first response.

    `coins` 1: one accuracy an annotator, for when the order of responses means nothing; 2: one accuracy for each side,
    which detects a preference for one side. `pseudo_votes`: right and wrong votes (as many of each) added to every
    annotator, a Beta(1 + pseudo_votes, 1 + pseudo_votes) prior. `fixed_prior`: the first response is better in half of
    the items; otherwise this share is estimated. `start`: accuracies of 0.7, or each item's share of votes. `pinned`
    [A]: given accuracies, NaN for those to estimate. Stops when no posterior changes by more than `tolerance`.

    Raises ArithmeticError when it has not converged after `passes`.
    """
    cast = np.ones(len(item)) if weight is None else weight
    items, size = int(item.max(initial=-1)) + 1, int(annotator.max(initial=-1)) + 1
    given = np.full(size, np.nan) if pinned is None else pinned[:size]
    known = ~np.isnan(given)
    prior = 0.5
    if start == "accuracy":
        posterior = _posterior(item, annotator, share, cast, np.full(size, _ACCURACY), np.full(size, _ACCURACY), prior)
    else:
        votes = np.bincount(item, cast, items)
        posterior = np.divide(np.bincount(item, cast * share, items), votes, out=np.full(items, 0.5), where=votes > 0)

    def rates(right: Floats, of: Floats) -> Floats:
        """Share of the votes `right` [n] among votes `of` [n], both 0 to 1, by annotator."""
        votes = np.bincount(annotator, cast * of, size)
        rate: Floats = (np.bincount(annotator, cast * right, size) + pseudo_votes) / (votes + 2 * pseudo_votes)
        return rate

    for done in range(1, passes + 1):
        q = posterior[item]
        with np.errstate(invalid="ignore", divide="ignore"):
            if coins == 1:
                sensitivity = specificity = rates(q * share + (1 - q) * (1 - share), np.ones(len(q)))
            else:
                sensitivity = rates(q * share, q)
                specificity = rates((1 - q) * (1 - share), 1 - q)
        if not fixed_prior:
            prior = float(posterior.mean())
        if known.any():
            sensitivity, specificity = np.where(known, given, sensitivity), np.where(known, given, specificity)
        elif (sensitivity + specificity)[annotator].mean() < 1:  # the two labels are swapped
            sensitivity, specificity, prior = 1 - sensitivity, 1 - specificity, 1 - prior
        new = _posterior(item, annotator, share, cast, sensitivity, specificity, prior)
        moved = np.abs(new - posterior).max(initial=0.0)
        posterior = new
        if moved < tolerance:
            return DawidSkene(posterior, sensitivity, specificity, prior, done)
    raise ArithmeticError(f"Dawid-Skene did not converge in {passes} passes")


def posterior_logits(votes: Votes, shape: tuple[int, int], accuracy: Floats, counted: Floats) -> PairLogits:
    """Posterior logit of every pair with a vote, for annotators of known `accuracy` [A]; NaN for other pairs.

    The posterior stays half a vote away from certainty, in [0.5 / (h + 1), 1 - 0.5 / (h + 1)] for h votes. The standard
    error comes from the accuracies, each estimated from `counted` [A] votes; it is not the error of a strength.
    """
    full = (*shape, shape[1])
    pair = np.ravel_multi_index((votes.prompt, votes.first, votes.second), full)
    size = int(np.prod(full))
    a = np.clip(accuracy, 1e-6, 1 - 1e-6)[votes.annotator]
    lean = 2 * votes.share - 1
    total = np.bincount(pair, votes.weight * lean * logit(a), size)
    spread = np.bincount(pair, (votes.weight * lean) ** 2 / (counted[votes.annotator] * a * (1 - a)), size)
    cast = np.bincount(pair, votes.weight, size)
    bound = np.log(2 * cast + 1)  # logit of 1 - 0.5 / (h + 1)
    value = np.where(cast > 0, np.clip(total, -bound, bound), np.nan).reshape(full)
    se = np.where(cast > 0, np.sqrt(spread), np.nan).reshape(full)
    known = ~np.isnan(value)
    return PairLogits(np.where(known, value, -value.transpose(0, 2, 1)), np.where(known, se, se.transpose(0, 2, 1)))


def _posterior(
    item: Ints,
    annotator: Ints,
    share: Floats,
    weight: Floats,
    sensitivity: Floats,
    specificity: Floats,
    prior: float,
) -> Floats:
    """Posterior [N] that the first response of each item is better."""
    tiny = 1e-10
    s1, s0 = (np.clip(rate, tiny, 1 - tiny)[annotator] for rate in (sensitivity, specificity))
    for_first = np.log(s1) - np.log1p(-s0)
    for_second = np.log1p(-s1) - np.log(s0)
    evidence = np.bincount(item, weight * (share * for_first + (1 - share) * for_second))
    p = min(max(prior, tiny), 1 - tiny)
    return sigmoid(evidence + np.log(p) - np.log1p(-p))
