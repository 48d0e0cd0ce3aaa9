"""Counts without a model: the empirical logit of one pair, and the wins that a ranking implies.

Sources: Haldane 1956, Anscombe 1956 (the empirical logit).
"""

import numpy as np
from numpy.typing import ArrayLike

from storage.arrays import Floats
from tasks.labeling.aggregation.arrays import PairLogits


def empirical_logit(k: ArrayLike, h: ArrayLike, a: float = 0.5) -> tuple[Floats, Floats]:
    """log((k + a) / (h - k + a)) and its variance 1/(k + a) + 1/(h - k + a), for k of h votes (a tie is half a vote).

    a = 0.5 is Haldane-Anscombe: unbiased to first order. Equals `bradley_terry` of two items with pseudo_wins = a.
    Raises ValueError unless 0 <= k <= h and a > 0.
    """
    won, cast = np.asarray(k, dtype=np.float64), np.asarray(h, dtype=np.float64)
    if a <= 0 or not ((won >= 0) & (won <= cast)).all():
        raise ValueError("votes must satisfy 0 <= k <= h, and a must be positive")
    lost = cast - won + a
    return np.log((won + a) / lost), 1 / (won + a) + 1 / lost


def pair_logits(wins: Floats, a: float = 0.5) -> PairLogits:
    """The empirical logit of every pair on its own, for wins [P, K, K]. The logits need not be transitive."""
    value, variance = empirical_logit(wins, wins + wins.transpose(0, 2, 1), a)
    return PairLogits(value, np.sqrt(variance))


def rankings_to_wins(rankings: ArrayLike) -> Floats:
    """The wins in rankings: int [P, R, K], each row the K items best first -> float [P, K, K].

    This is a composite likelihood: the K(K-1)/2 wins of one ranking count as if they were independent.
    Raises ValueError when a row is not a permutation of 0..K-1.
    """
    order = np.asarray(rankings)
    if order.ndim != 3 or not (np.sort(order, axis=2) == np.arange(order.shape[2])).all():
        raise ValueError("rankings must be [prompts, rankers, items], each row a permutation of 0..items-1")
    place = np.argsort(order, axis=2)
    wins: Floats = (place[:, :, :, None] < place[:, :, None, :]).sum(axis=1).astype(np.float64)
    return wins
