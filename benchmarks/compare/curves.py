"""Utility as a curve over KL, and the gap of two curves at equal KL, with a standard error.

A method's points of one seed are its rounds at every strength. Its curve is fitted to them by least squares:

    U(KL) - U(0) = a d + b d^2,   d = sqrt(KL)

the form of Gao, Schulman and Hilton (arXiv 2210.10760, best-of-n), through the initial policy, which all methods share.
A fitted value is a weighted sum of the points' utilities; the weights depend on KL alone. So a gap between
two curves is the mean over held-out prompts of one number a prompt, and its standard error is that of this mean: all
points answer the same prompts. It holds the noise of prompts and replies, not that of another training run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
GRID = 9  # points of the common range of KL, evenly spaced in its square root


@dataclass(frozen=True)
class Points:
    """kl [n]: nats a reply, above 0; utility [n, prompts]; initial [prompts]: the initial policy's utility.

    last [n]: whether a point is of its arm's last round.
    """

    kl: Floats
    utility: Floats
    initial: Floats
    last: NDArray[np.bool_]

    def weights(self, kl: Floats) -> Floats:
        """[len(kl), n]: weights of the points' gains in the fitted gain at each of `kl`."""
        found: Floats = _form(kl) @ np.linalg.pinv(_form(self.kl))
        return found

    def gains(self, kl: Floats) -> Floats:
        """[len(kl), prompts]: fitted U(kl) - U(0), prompt by prompt."""
        found: Floats = self.weights(kl) @ (self.utility - self.initial)
        return found

    def fitted(self, kl: Floats) -> Floats:
        """[len(kl)]: the curve."""
        found: Floats = self.initial.mean() + self.gains(kl).mean(axis=1)
        return found

    @property
    def misfit(self) -> float:
        """Root mean square distance of the points from their curve."""
        residuals = self.utility.mean(axis=1) - self.fitted(self.kl)
        return float(np.sqrt(np.square(residuals).mean()))


def _form(kl: Floats) -> Floats:
    return np.stack([np.sqrt(kl), kl], axis=1)


@dataclass(frozen=True)
class Gap:
    """One curve minus another over the range of KL that both have: its mean, and where it is least.

    `worst` is the least ratio of a gap to its standard error on the grid, `worst_gap` that gap, `at` its KL.
    """

    low: float
    high: float
    mean: float
    se: float
    worst: float
    worst_gap: float
    at: float

    @property
    def verdict(self) -> str:
        """above or below: the mean gap is more than two standard errors from 0; else on."""
        if abs(self.mean) <= 2 * self.se:
            return "on"
        return "above" if self.mean > 0 else "below"


def gap(one: Points, other: Points) -> Gap | None:
    """`one` minus `other` at equal KL; None when no KL is within the points of both."""
    low, high = max(one.kl.min(), other.kl.min()), min(one.kl.max(), other.kl.max())
    if low >= high:
        return None
    kl = np.square(np.linspace(np.sqrt(low), np.sqrt(high), GRID))
    by_prompt = one.gains(kl) - other.gains(kl)
    mean, se = _mean(by_prompt.mean(axis=0))
    gaps = [_mean(row) for row in by_prompt]
    # An error below rounding counts as this floor: without noise between prompts the least gap is the worst one.
    floor = 1e-12 * max(abs(value) for value, _ in gaps) or 1.0
    ratios = [value / max(error, floor) for value, error in gaps]
    least = int(np.argmin(ratios))
    return Gap(float(low), float(high), mean, se, ratios[least], gaps[least][0], float(kl[least]))


def gap_at_the_end(one: Points, other: Points) -> tuple[float, float] | None:
    """The curve of `one` minus the last rounds of `other`, at their KL: mean and standard error.

    None when no last round of `other` is within the KL of `one`'s points. A curve over all rounds penalises a method
    for its early rounds if it moves fast at first; this gap does not.
    """
    within = other.last & (other.kl >= one.kl.min()) & (other.kl <= 1.1 * one.kl.max())
    if not within.any():
        return None
    by_prompt = one.initial + one.gains(other.kl[within]) - other.utility[within]
    return _mean(by_prompt.mean(axis=0))


def _mean(values: Floats) -> tuple[float, float]:
    """Mean over prompts and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def pooled(gaps: Sequence[Gap]) -> tuple[float, float]:
    """Mean over seeds and its standard error, seeds being independent."""
    errors = np.array([each.se for each in gaps])
    return float(np.mean([each.mean for each in gaps])), float(np.sqrt(np.square(errors).sum()) / len(gaps))
