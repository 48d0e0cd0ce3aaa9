"""beta-DPO: beta follows the gaps of the step, and pairs with unusual gaps are left out.

Source: arXiv 2407.08639. With the gaps M_i = d_i of a step's pairs (without gradient), their running mean M0 and
deviation S0, both updated before use:

    keep floor(B (1 - rho)) pairs, drawn without replacement with weight exp(-1/2 ((M_i - M0) / S0)^2)
    beta = max(beta0 (1 + alpha (mean of the kept M - M0)), 1e-3),      L = -ls(beta d) of the kept pairs

Choices that the paper leaves open, or that differ from its code: deviations are population ones (ddof 0); the running
values are corrected for their start at 0, as Adam's are; S0 is at least 1e-6, so that equal gaps are all kept with the
same weight; at least one pair is kept.
"""

from dataclasses import dataclass

import numpy as np

SMALLEST_BETA = 1e-3
SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Running:
    """Running mean and deviation of gaps, nats, as sums that start at 0, and the number of steps in them."""

    mean: float = 0.0
    deviation: float = 0.0
    steps: int = 0

    def updated(self, gaps: np.ndarray, momentum: float) -> "Running":
        """After a step with `gaps` [B], nats."""
        rest = 1 - momentum
        return Running(
            momentum * self.mean + rest * float(gaps.mean()),
            momentum * self.deviation + rest * float(gaps.std()),
            self.steps + 1,
        )

    def corrected(self, momentum: float) -> tuple[float, float]:
        """Mean and deviation without the bias of the start; at least one step must be in them."""
        weight = 1 - momentum**self.steps
        return self.mean / weight, self.deviation / weight


def likelihood(gaps: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Weight of each pair in the draw, [B]: exp(-1/2 ((M - mean) / deviation)^2)."""
    weights: np.ndarray = np.exp(-0.5 * np.square((gaps - mean) / max(deviation, SMALLEST_DEVIATION)))
    return weights


def drawn(weights: np.ndarray, drop: float, generator: np.random.Generator) -> np.ndarray:
    """Positions of the kept pairs, ascending; drawn without replacement by `weights` (Efraimidis and Spirakis)."""
    kept = max(1, int(len(weights) * (1 - drop)))
    with np.errstate(divide="ignore"):  # a weight that underflows is drawn last
        keys = np.log(generator.random(len(weights))) / weights
    return np.sort(np.argsort(-keys, kind="stable")[:kept])


def step_beta(kept_mean: float, mean: float, *, beta: float, gain: float) -> float:
    """beta of a step whose kept pairs have the mean gap `kept_mean`, nats."""
    return max(beta * (1 + gain * (kept_mean - mean)), SMALLEST_BETA)
