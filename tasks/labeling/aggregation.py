"""Votes to strengths: Bradley-Terry by damped Newton, and the empirical logit of one pair. Numpy, batched over prompts.

P prompts, K responses (slots) of each. `wins[p, i, j]` counts how often i beat j; a tie is half a win each way. Fewer
than K responses: say so by `mask`, absent slots come back as NaN. Sources: Zermelo 1929; Bradley and Terry 1952; Ford
1957 (existence); Haldane 1956, Anscombe 1956 (the empirical logit).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer]

_TOLERANCE = 1e-18  # rise of the log-posterior, for each win, that the last Newton step still promised
_ITERATIONS = 200
_HALVINGS = 40
_ARMIJO = 0.1  # a step must gain this share of what its slope promises, or it is halved
_ROUNDING = 1e-12  # relative error of the log-posterior


@dataclass(frozen=True)
class Strengths:
    """Fitted strengths in logits: P(i beats j) = sigmoid(theta_i - theta_j)."""

    theta: Floats  # [P, K], NaN where absent
    covariance: Floats  # [P, K, K], inverse curvature of the log-posterior (pseudo-inverse when only gaps are known)

    def gaps(self, prompt: Ints, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """theta[first] - theta[second] and its standard error, for index arrays of one length [n]."""
        cov = self.covariance
        variance = cov[prompt, first, first] + cov[prompt, second, second] - 2 * cov[prompt, first, second]
        return self.theta[prompt, first] - self.theta[prompt, second], np.sqrt(variance)


def bradley_terry(
    wins: ArrayLike,
    *,
    prior_variance: float | None = None,
    pseudo_wins: float = 0.0,
    anchor: float = 0.0,
    mask: ArrayLike | None = None,
) -> Strengths:
    """Maximise the Bradley-Terry log-posterior of each prompt's wins [P, K, K] (float, >= 0, diagonal unused).

    `prior_variance` v: each strength ~ N(0, v). `pseudo_wins` a: added to every win count between two present items.
    `anchor` c: each item also has c wins and c losses against a virtual item of strength 0. `mask` [P, K]: which
    items are there (default all). Without a prior or an anchor only gaps are determined; strengths then have mean 0
    (geometric mean 1 of exp theta).

    Raises ValueError for counts that are negative or not finite, and, when nothing regularises, for win graphs that
    are not strongly connected: the maximum is then at infinity (Ford 1957). Raises ArithmeticError when counts are so
    lopsided, and the regularisation so weak, that float64 does not hold the maximum.
    """
    counts = np.array(wins, dtype=np.float64)
    if counts.ndim != 3 or counts.shape[1] != counts.shape[2]:
        raise ValueError(f"wins must be [prompts, items, items], not {counts.shape}")
    present = np.ones(counts.shape[:2], dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if present.shape != counts.shape[:2]:
        raise ValueError(f"mask must be {counts.shape[:2]}, not {present.shape}")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError("wins must be finite and not negative")
    if min(pseudo_wins, anchor) < 0 or (prior_variance is not None and prior_variance <= 0):
        raise ValueError("prior_variance must be positive, pseudo_wins and anchor not negative")
    pairs = present[:, :, None] & present[:, None, :] & ~np.eye(counts.shape[1], dtype=bool)
    counts = np.where(pairs, counts + pseudo_wins, 0.0)
    anchored = prior_variance is not None or anchor > 0
    if not anchored:
        _check_connected(counts, present)
    precision = 0.0 if prior_variance is None else 1.0 / prior_variance
    try:
        return _newton(counts, present, precision, anchor, anchored)
    except np.linalg.LinAlgError:
        raise ArithmeticError("strengths are too far apart for float64; use a stronger prior or anchor") from None


def _newton(counts: Floats, present: Bools, precision: float, anchor: float, anchored: bool) -> Strengths:
    n = np.maximum(present.sum(axis=1), 1)[:, None, None]
    # Where only gaps are determined the curvature is singular along (1, ..., 1): fill that direction with eigenvalue 1.
    gauge = np.zeros(counts.shape) if anchored else (present[:, :, None] & present[:, None, :]) / n
    absent = ~present[:, :, None] * np.eye(counts.shape[1])
    theta = np.zeros(present.shape)
    value = _log_posterior(theta, counts, precision, anchor)
    tolerance = _TOLERANCE * (1 + counts.max(axis=(1, 2), initial=0.0))
    for _ in range(_ITERATIONS):
        gradient, curvature = _derivatives(theta, counts, precision, anchor, present)
        step = np.linalg.solve(curvature + gauge + absent, gradient[:, :, None])[:, :, 0]
        promised = (gradient * step).sum(axis=1)
        size = np.ones((len(theta), 1))
        for _ in range(_HALVINGS):
            moved = _log_posterior(theta + size * step, counts, precision, anchor)
            short = moved < value + _ARMIJO * size[:, 0] * promised - _ROUNDING * (1 + np.abs(value))
            if not short.any():
                break
            size[short] /= 2
        theta, value = theta + size * step, moved
        if (promised <= tolerance).all():
            break
    else:
        raise ArithmeticError(f"Bradley-Terry did not converge in {_ITERATIONS} Newton steps")
    if not anchored:
        theta = np.where(present, theta - (theta.sum(axis=1) / n[:, 0, 0])[:, None], 0.0)
    _, curvature = _derivatives(theta, counts, precision, anchor, present)
    covariance = np.linalg.inv(curvature + gauge + absent) - gauge - absent
    both = present[:, :, None] & present[:, None, :]
    return Strengths(np.where(present, theta, np.nan), np.where(both, covariance, np.nan))


def _log_posterior(theta: Floats, counts: Floats, precision: float, anchor: float) -> Floats:
    gap = theta[:, :, None] - theta[:, None, :]
    value: Floats = -(counts * np.logaddexp(0.0, -gap)).sum(axis=(1, 2)) - 0.5 * precision * (theta**2).sum(axis=1)
    if anchor:
        value -= anchor * (np.logaddexp(0.0, theta) + np.logaddexp(0.0, -theta)).sum(axis=1)
    return value


def _derivatives(
    theta: Floats, counts: Floats, precision: float, anchor: float, present: Bools
) -> tuple[Floats, Floats]:
    """Gradient [P, K] and negative Hessian [P, K, K] of the log-posterior; zero for absent items."""
    p = sigmoid(theta[:, :, None] - theta[:, None, :])
    played = counts + counts.transpose(0, 2, 1)
    q = sigmoid(theta)
    gradient = np.where(present, (counts - played * p).sum(axis=2) - precision * theta + anchor * (1 - 2 * q), 0.0)
    weight = played * p * (1 - p)
    diagonal = np.where(present, weight.sum(axis=2) + precision + 2 * anchor * q * (1 - q), 0.0)
    return gradient, diagonal[:, :, None] * np.eye(theta.shape[1]) - weight


def _check_connected(counts: Floats, present: Bools) -> None:
    """Raise ValueError unless, in every prompt, each present item beats each other one directly or through others."""
    reach = (counts > 0) | np.eye(counts.shape[1], dtype=bool)
    for _ in range(max(1, counts.shape[1].bit_length())):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    missing = np.argwhere(present[:, :, None] & present[:, None, :] & ~reach)
    if len(missing):
        prompt, i, j = missing[0]
        raise ValueError(
            f"the win graph of prompt {prompt} is not strongly connected: item {i} never beats item {j}, not even "
            f"through others, so the maximum likelihood is at infinity; give prior_variance, pseudo_wins or anchor "
            f"({len(np.unique(missing[:, 0]))} of {len(counts)} prompts are like this)"
        )


def rankings_to_wins(rankings: ArrayLike) -> Floats:
    """Break rankings into wins: int [P, R, K], each row the K items best first -> float [P, K, K].

    A composite likelihood: the K(K-1)/2 wins of one ranking count as if independent.
    Raises ValueError when a row is not a permutation of 0..K-1.
    """
    order = np.asarray(rankings)
    if order.ndim != 3 or not (np.sort(order, axis=2) == np.arange(order.shape[2])).all():
        raise ValueError("rankings must be [prompts, rankers, items], each row a permutation of 0..items-1")
    place = np.argsort(order, axis=2)
    wins: Floats = (place[:, :, :, None] < place[:, :, None, :]).sum(axis=1).astype(np.float64)
    return wins


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


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    result: Floats = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    return result
