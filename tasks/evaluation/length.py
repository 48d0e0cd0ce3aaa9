"""The effect of length on a win rate: the length-controlled win rate, and the slope of wins over length.

The length-controlled win rate is AlpacaEval 2's (Dubois et al., arXiv 2404.04475), in its minimal form: of its logistic
model

    P(policy wins) = sigmoid( b + phi * tanh(delta / std(delta)) + psi * gamma_x )

the strength b and the length effect phi are fitted to the votes of this evaluation. AlpacaEval's difficulties gamma_x
of instructions and its rows of gamed baselines exist only for its own prompts and baseline, so this is not AlpacaEval's
number and cannot be compared with its leaderboard. delta is the length of the policy's reply minus the rival's, in
characters (AlpacaEval uses the opposite sign; the result is the same).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage.arrays import Floats
from tasks.evaluation.intervals import Bootstrap, Interval, bootstrap
from tasks.evaluation.logistic import fit, sigmoid

_VARIANCE = 100.0  # of the coefficients' prior: 10 pulls the win rate of a dozen comparisons by 5 points towards 1/2


@dataclass(frozen=True)
class LengthEffect:
    """The effect of length in one judge's comparisons with one rival.

    controlled: the win rate if all replies were equally long. slope: change of the win rate for a reply that is longer
    by one standard deviation of delta (least squares). delta, deviation: mean and standard deviation of delta,
    characters. bins: (mean delta, win rate, comparisons), equal parts of the comparisons by increasing delta.
    """

    controlled: Interval
    slope: Interval
    delta: float
    deviation: float
    bins: list[tuple[float, float, int]]


def length_effect(
    worth: Sequence[float], delta: Sequence[float], prompts: Sequence[str], draw: Bootstrap
) -> LengthEffect:
    """worth: [n], 1 for a win of the policy, 0.5 for a tie, 0 for a loss; delta: [n], characters; prompts: [n]."""
    won, longer = np.asarray(worth, dtype=np.float64), np.asarray(delta, dtype=np.float64)
    deviation = float(longer.std(ddof=1)) if len(longer) > 1 else 0.0
    scaled = longer / deviation if deviation else np.zeros_like(longer)
    design = np.stack([np.ones_like(scaled), np.tanh(scaled)], axis=1)

    def controlled(weights: Floats) -> Floats:
        return sigmoid(fit(design, won, weights, variance=_VARIANCE)[:, 0])

    def slope(weights: Floats) -> Floats:
        total = weights.sum(1)
        x, y = weights @ scaled / total, weights @ won / total
        spread = weights @ np.square(scaled) / total - np.square(x)
        together = weights @ (scaled * won) / total - x * y
        value: Floats = np.where(spread > 1e-12, together / np.maximum(spread, 1e-12), 0.0)
        return value

    return LengthEffect(
        controlled=bootstrap(controlled, prompts, draw),
        slope=bootstrap(slope, prompts, draw),
        delta=float(longer.mean()),
        deviation=deviation,
        bins=_bins(longer, won),
    )


def _bins(longer: Floats, won: Floats, most: int = 6) -> list[tuple[float, float, int]]:
    """Equal parts of the comparisons by delta; comparisons with equal delta stay together."""
    order = np.argsort(longer, kind="stable")
    ends = np.searchsorted(longer[order], np.unique(np.quantile(longer, np.arange(1, most + 1) / most)), side="right")
    bins, start = [], 0
    for end in ends.tolist():
        if end > start:
            part = order[start:end]
            bins.append((float(longer[part].mean()), float(won[part].mean()), len(part)))
            start = end
    return bins
