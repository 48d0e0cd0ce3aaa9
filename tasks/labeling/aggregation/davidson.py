"""Bradley-Terry strengths with ties (Davidson 1970).

P(i beats j) : P(tie) : P(j beats i) = e^(g/2) : nu : e^(-g/2), for a gap g of strengths.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from storage.arrays import Floats, Ints
from tasks.labeling.aggregation.arrays import logit
from tasks.labeling.aggregation.bradley_terry import Strengths, check_connected, strengths_of
from tasks.labeling.aggregation.newton import maximise

_TOLERANCE = 1e-18


@dataclass(frozen=True)
class Davidson:
    """Fitted strengths and tie rates. P(i beats j) = e^(g/2) / (e^(g/2) + nu + e^(-g/2))."""

    strengths: Strengths
    log_nu: Floats  # [P]
    covariance: Floats  # [P, K+1, K+1]: of the strengths and log nu; 0 where absent

    def gaps(self, prompt: Ints, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """Logit of P(first wins) + P(tie) / 2, and its standard error, for index arrays of one length [n]."""
        gap, _ = self.strengths.gaps(prompt, first, second)
        win, lose, tie = _probabilities(gap, self.log_nu[prompt])
        p = win + tie / 2
        by_gap = ((win + lose) / 4 - ((win - lose) / 2) ** 2) / (p * (1 - p))
        by_nu = -tie * (win - lose) / 2 / (p * (1 - p))
        slope = np.zeros((len(gap), self.covariance.shape[1]))
        rows = np.arange(len(gap))
        slope[rows, first], slope[rows, second], slope[:, -1] = by_gap, -by_gap, by_nu
        return logit(p), np.sqrt(np.einsum("ni,nij,nj->n", slope, self.covariance[prompt], slope))


def davidson(
    wins: ArrayLike,
    ties: ArrayLike,
    *,
    prior_variance: float | None = None,
    tie_variance: float | None = None,
    mask: ArrayLike | None = None,
) -> Davidson:
    """Maximise Davidson's log-posterior for wins [P, K, K] (ties not counted) and ties [P, K, K] (symmetric).

    `prior_variance` v: strengths ~ N(0, v). `tie_variance` u: log nu ~ N(0, u). `mask` [P, K]: which items are present.
    Raises ValueError for a prompt without a tie or without a win when tie_variance is None (nu is then 0 or infinite),
    and for infinite strengths when prior_variance is None.
    """
    won, tied = np.array(wins, dtype=np.float64), np.array(ties, dtype=np.float64)
    present = np.ones(won.shape[:2], dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    size = won.shape[1]
    both = present[:, :, None] & present[:, None, :] & ~np.eye(size, dtype=bool)
    won, tied = np.where(both, won, 0.0), np.where(both, tied, 0.0)
    if (tied != tied.transpose(0, 2, 1)).any():
        raise ValueError("ties must be symmetric")
    total = tied.sum(axis=(1, 2)) / 2
    if tie_variance is None and ((total == 0) | (won.sum(axis=(1, 2)) == 0)).any():
        raise ValueError("a prompt has no tie, or no win; set tie_variance")
    if prior_variance is None:
        check_connected(won + tied, present)
    played = won + won.transpose(0, 2, 1) + tied
    precision = 0.0 if prior_variance is None else 1 / prior_variance
    tie_precision = 0.0 if tie_variance is None else 1 / tie_variance
    n = np.maximum(present.sum(axis=1), 1)[:, None, None]
    fill = np.zeros((len(won), size + 1, size + 1))
    fill[:, :size, :size] = ~present[:, :, None] * np.eye(size)
    if prior_variance is None:
        fill[:, :size, :size] += (present[:, :, None] & present[:, None, :]) / n
    surplus = (won - won.transpose(0, 2, 1)).sum(axis=2) / 2

    def value(x: Floats) -> Floats:
        theta, log_nu = x[:, :-1], x[:, -1]
        half = (theta[:, :, None] - theta[:, None, :]) / 2
        norm = np.logaddexp(np.logaddexp(half, -half), log_nu[:, None, None])
        likelihood = (surplus * theta).sum(axis=1) + total * log_nu - (played * norm).sum(axis=(1, 2)) / 2
        result: Floats = likelihood - precision * (theta**2).sum(axis=1) / 2 - tie_precision * log_nu**2 / 2
        return result

    def derivatives(x: Floats) -> tuple[Floats, Floats]:
        theta, log_nu = x[:, :-1], x[:, -1]
        win, lose, tie = _probabilities(theta[:, :, None] - theta[:, None, :], log_nu[:, None, None])
        lead = (win - lose) / 2
        weight = played * ((win + lose) / 4 - lead**2)
        cross = -(played * tie * lead).sum(axis=2)
        gradient = np.empty_like(x)
        gradient[:, :-1] = np.where(present, surplus - (played * lead).sum(axis=2) - precision * theta, 0.0)
        gradient[:, -1] = total - (played * tie).sum(axis=(1, 2)) / 2 - tie_precision * log_nu
        curvature = np.zeros_like(fill)
        diagonal = np.where(present, weight.sum(axis=2) + precision, 0.0)
        curvature[:, :-1, :-1] = diagonal[:, :, None] * np.eye(size) - weight
        curvature[:, :-1, -1] = curvature[:, -1, :-1] = cross
        curvature[:, -1, -1] = (played * tie * (1 - tie)).sum(axis=(1, 2)) / 2 + tie_precision
        return gradient, curvature + fill

    tolerance = _TOLERANCE * (1 + played.max(axis=(1, 2), initial=0.0))
    x, inverse = maximise(value, derivatives, np.zeros((len(won), size + 1)), tolerance)
    theta = x[:, :-1]
    if prior_variance is None:
        theta = theta - (theta * present).sum(axis=1, keepdims=True) / n[:, :, 0]
    covariance = inverse - fill
    return Davidson(strengths_of(theta, covariance[:, :-1, :-1], present), x[:, -1], covariance)


def _probabilities(gap: Floats, log_nu: Floats) -> tuple[Floats, Floats, Floats]:
    """P(first wins), P(second wins), P(tie)."""
    half = gap / 2
    norm = np.logaddexp(np.logaddexp(half, -half), log_nu)
    return np.exp(half - norm), np.exp(-half - norm), np.exp(log_nu - norm)
