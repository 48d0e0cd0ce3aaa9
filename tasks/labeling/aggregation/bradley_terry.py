"""Bradley-Terry strengths (Zermelo's model) by damped Newton, batched over prompts.

P prompts, K responses (slots) of each. `wins[p, i, j]` counts how often i beat j; a tie is half a win each way. Prompts
with fewer than K responses have a `mask`; strengths of absent slots are NaN. Sources: Zermelo 1929; Bradley and Terry
1952; Ford 1957 (existence).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from storage.arrays import Bools, Floats, Ints
from tasks.labeling.aggregation.arrays import sigmoid
from tasks.labeling.aggregation.newton import maximise

_TOLERANCE = 1e-18  # predicted rise of the log-posterior, for each win, at which Newton's method stops


@dataclass(frozen=True)
class Strengths:
    """Fitted strengths in logits: P(i beats j) = sigmoid(theta_i - theta_j)."""

    theta: Floats  # [P, K], NaN where absent
    covariance: Floats  # [P, K, K], inverse curvature of the log-posterior (pseudo-inverse if only gaps are known)

    def gaps(self, prompt: Ints, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """theta[first] - theta[second] and its standard error, for index arrays of one length [n]."""
        cov = self.covariance
        variance = cov[prompt, first, first] + cov[prompt, second, second] - 2 * cov[prompt, first, second]
        return self.theta[prompt, first] - self.theta[prompt, second], np.sqrt(variance)


def bradley_terry(
    wins: ArrayLike,
    *,
    prior_variance: float | None = None,
    prior_mean: ArrayLike = 0.0,
    pseudo_wins: float = 0.0,
    anchor: float = 0.0,
    mask: ArrayLike | None = None,
) -> Strengths:
    """Maximise the Bradley-Terry log-posterior of each prompt's wins [P, K, K] (float, >= 0, diagonal unused).

    `prior_variance` v: each strength ~ N(m, v), m = `prior_mean` (broadcast to [P, K]). `pseudo_wins` a: added to
    every win count between two present items. `anchor` c: each item also has c wins and c losses against a virtual
    item of strength 0. `mask` [P, K]: which items are present (default all). Without a prior or an anchor, only gaps
    are determined; strengths then have mean 0.

    Raises ValueError for counts that are negative or not finite, and, without any regularisation, for win graphs that
    are not strongly connected, because the maximum is then at infinity (Ford 1957). Raises ArithmeticError when counts
    are so one-sided, and the regularisation is so weak, that float64 cannot represent the maximum.
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
        check_connected(counts, present)
    precision = 0.0 if prior_variance is None else 1.0 / prior_variance
    mean = np.broadcast_to(np.asarray(prior_mean, dtype=np.float64), present.shape)
    return _fit(counts, present, precision, mean, anchor, anchored)


def _fit(counts: Floats, present: Bools, precision: float, mean: Floats, anchor: float, anchored: bool) -> Strengths:
    n = np.maximum(present.sum(axis=1), 1)[:, None, None]
    # When only gaps are determined, the curvature is singular along (1, ..., 1): give that direction eigenvalue 1.
    gauge = np.zeros(counts.shape) if anchored else (present[:, :, None] & present[:, None, :]) / n
    absent = ~present[:, :, None] * np.eye(counts.shape[1])

    ridge = np.where(present, precision, 0.0)[:, :, None] * np.eye(counts.shape[1])

    def value(above: Floats) -> Floats:
        posterior: Floats = win_posterior(above + mean, counts, 0.0, anchor) - 0.5 * precision * (above**2).sum(axis=1)
        return posterior

    def derivatives(above: Floats) -> tuple[Floats, Floats]:
        gradient, curvature = win_derivatives(above + mean, counts, 0.0, anchor, present)
        return gradient - np.where(present, precision * above, 0.0), curvature + ridge + gauge + absent

    above, inverse = maximise(
        value,
        derivatives,
        np.zeros(present.shape),
        _TOLERANCE * (1 + counts.max(axis=(1, 2), initial=0.0)),
    )
    theta = above + mean
    if not anchored:
        theta = np.where(present, theta - (theta.sum(axis=1) / n[:, 0, 0])[:, None], 0.0)
    return strengths_of(theta, inverse - gauge - absent, present)


def strengths_of(theta: Floats, covariance: Floats, present: Bools) -> Strengths:
    """Strengths with NaN for absent items."""
    both = present[:, :, None] & present[:, None, :]
    return Strengths(np.where(present, theta, np.nan), np.where(both, covariance, np.nan))


def win_posterior(theta: Floats, counts: Floats, precision: float, anchor: float) -> Floats:
    """Log-posterior [P] of strengths theta [P, K] given wins [P, K, K]."""
    gap = theta[:, :, None] - theta[:, None, :]
    value: Floats = -(counts * np.logaddexp(0.0, -gap)).sum(axis=(1, 2)) - 0.5 * precision * (theta**2).sum(axis=1)
    if anchor:
        value -= anchor * (np.logaddexp(0.0, theta) + np.logaddexp(0.0, -theta)).sum(axis=1)
    return value


def win_derivatives(
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


def check_connected(counts: Floats, present: Bools) -> None:
    """Raises ValueError unless, in every prompt, each present item beats every other, directly or through others."""
    reach = (counts > 0) | np.eye(counts.shape[1], dtype=bool)
    for _ in range(max(1, counts.shape[1].bit_length())):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    missing = np.argwhere(present[:, :, None] & present[:, None, :] & ~reach)
    if len(missing):
        prompt, i, j = missing[0]
        raise ValueError(
            f"the win graph of prompt {prompt} is not strongly connected: item {i} never beats item {j}, not even "
            f"through others, so the maximum likelihood is at infinity; set prior_variance, pseudo_wins or anchor "
            f"(this concerns {len(np.unique(missing[:, 0]))} of {len(counts)} prompts)"
        )
