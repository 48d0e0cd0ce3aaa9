"""The prior variance of strengths that predicts best the votes of an annotator who is left out.

Each annotator is left out in turn, strengths are fitted to the votes of the others, and its votes are scored by their
log-likelihood under these strengths. The variance with the highest sum is chosen. A large variance trusts few votes; a
small one says that annotators often disagree, so that a single vote says little about the next one.
"""

from collections.abc import Callable

import numpy as np

from storage.arrays import Bools, Floats
from tasks.labeling.aggregation.bradley_terry import bradley_terry
from tasks.labeling.aggregation.votes import Votes

#: The variances to choose from: factors of 2.
VARIANCES: Floats = np.array([2.0**k for k in range(-3, 8)])

#: The mean of the strengths' prior, from the votes in hand and their prior variance; broadcast to [P, K].
PriorMean = Callable[[Votes, float], Floats | float]


def no_prior_mean(votes: Votes, variance: float) -> float:
    """Strengths around 0."""
    return 0.0


def held_out_likelihoods(
    votes: Votes,
    shape: tuple[int, int],
    *,
    mask: Bools | None = None,
    prior_mean: PriorMean = no_prior_mean,
    variances: Floats = VARIANCES,
) -> Floats:
    """Log-likelihood [V] of all votes, each annotator's predicted from the others', for each of `variances` [V].

    shape: (P, K). Votes count with their weight; a share of a win counts on both sides.
    """
    total = np.zeros(len(variances))
    for annotator in np.unique(votes.annotator[votes.weight > 0]):
        out = votes.annotator == annotator
        others, own = votes.take(~out), votes.take(out)
        wins = others.wins(shape)
        for v, variance in enumerate(variances.tolist()):
            mean = prior_mean(others, variance)
            fit = bradley_terry(wins, prior_variance=variance, prior_mean=mean, mask=mask)
            gap = fit.theta[own.prompt, own.first] - fit.theta[own.prompt, own.second]
            each = own.share * np.logaddexp(0.0, -gap) + (1 - own.share) * np.logaddexp(0.0, gap)
            total[v] -= (own.weight * each).sum()
    return total


def best_variance(likelihoods: Floats, variances: Floats = VARIANCES) -> float:
    """The variance with the highest likelihood; of equal ones the smallest, which claims least."""
    return float(variances[int(likelihoods.argmax())])
