"""Bradley-Terry strengths from annotators of known honesty (Crowd-BT: Chen et al. 2013).

An annotator of honesty eta votes as Bradley-Terry predicts with probability eta, and the opposite otherwise:
P(i beats j) = eta sigmoid(g) + (1 - eta) sigmoid(-g), g = theta_i - theta_j. eta = 1 is plain Bradley-Terry, 0 reverses
every vote, and votes with eta = 0.5 carry no information.
"""

import numpy as np

from storage.arrays import Bools, Floats
from tasks.labeling.aggregation.arrays import sigmoid
from tasks.labeling.aggregation.bradley_terry import (
    Strengths,
    bradley_terry,
    strengths_of,
    win_derivatives,
    win_posterior,
)
from tasks.labeling.aggregation.newton import maximise
from tasks.labeling.aggregation.votes import Votes

_TOLERANCE = 1e-14  # predicted rise of the log-posterior, for each vote, at which the iteration stops
_DIGITS = 2  # honesties are rounded to this, so that annotators share tables of wins


def crowd_bt(
    votes: Votes, shape: tuple[int, int], honesty: Floats, *, prior_variance: float, mask: Bools | None = None
) -> Strengths:
    """Maximise the log-posterior of strengths ~ N(0, prior_variance) for votes of annotators of `honesty` [A].

    A tie is half a win each way for every honesty but 0.5. Standard errors come from the expected information, with
    honesties treated as known. Honesties are rounded to two digits.
    """
    present = np.ones(shape, dtype=bool) if mask is None else mask
    eta = np.round(honesty, _DIGITS)[votes.annotator]
    decided = np.abs(2 * votes.share - 1)
    direction = (votes.share > 0.5).astype(np.float64)
    weight_used = votes.weight * (eta != 0.5)
    certain = decided * ((eta == 1) | (eta == 0))
    plain = votes.wins(shape, np.where(eta == 0, 1 - direction, direction), weight_used * certain)
    plain += votes.wins(shape, np.full(len(votes), 0.5), weight_used * (1 - decided))
    levels = np.unique(eta[(eta > 0) & (eta < 1) & (eta != 0.5)])
    if not len(levels):
        return bradley_terry(plain, prior_variance=prior_variance, mask=present)
    tables = [(float(level), votes.wins(shape, direction, weight_used * decided * (eta == level))) for level in levels]
    absent = ~present[:, :, None] * np.eye(shape[1])
    precision = 1 / prior_variance

    def value(theta: Floats) -> Floats:
        p = sigmoid(theta[:, :, None] - theta[:, None, :])
        total = win_posterior(theta, plain, precision, 0.0)
        for level, wins in tables:
            total = total + (wins * np.log(level * p + (1 - level) * (1 - p))).sum(axis=(1, 2))
        return total

    def derivatives(theta: Floats) -> tuple[Floats, Floats]:
        p = sigmoid(theta[:, :, None] - theta[:, None, :])
        gradient, curvature = win_derivatives(theta, plain, precision, 0.0, present)
        for level, wins in tables:
            observed = level * p + (1 - level) * (1 - p)  # probability of the vote 'i beats j'
            slope = (2 * level - 1) * p * (1 - p)
            played = wins + wins.transpose(0, 2, 1)
            gradient += ((wins / observed - (played - wins) / (1 - observed)) * slope).sum(axis=2)
            weight = played * slope**2 / (observed * (1 - observed))
            curvature += weight.sum(axis=2)[:, :, None] * np.eye(shape[1]) - weight
        return gradient, curvature + absent

    # The likelihood has several maxima: start from the plain fit, with each vote weighted by its information.
    flipped = np.where(eta < 0.5, 1 - votes.share, votes.share)
    start = bradley_terry(
        votes.wins(shape, flipped, weight_used * np.abs(2 * eta - 1)), prior_variance=prior_variance, mask=present
    ).theta
    most = plain.max(axis=(1, 2), initial=0.0) + sum(wins.max(axis=(1, 2), initial=0.0) for _, wins in tables)
    theta, inverse = maximise(value, derivatives, np.where(present, start, 0.0), _TOLERANCE * (1 + most))
    return strengths_of(theta, inverse - absent, present)
