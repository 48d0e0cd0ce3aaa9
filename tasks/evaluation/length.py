"""How much of a win rate is length: the length-controlled win rate, and what a longer reply wins by its length.

The length-controlled win rate is AlpacaEval 2's (Dubois et al., arXiv 2404.04475), in its minimal form: of its logistic
model

    P(policy wins) = sigmoid( b + phi * tanh(delta / std(delta)) + psi * gamma_x )

the strength b and the length effect phi are fitted to this evaluation's own votes. The difficulties gamma_x of
instructions and the rows of gamed baselines exist for AlpacaEval's own prompts and baseline only, so that the figure is
not AlpacaEval's and is not comparable with its leaderboard. delta is the length of the policy's reply less the rival's,
in characters (AlpacaEval has the opposite sign; the figure is the same).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.evaluation.intervals import Interval, bootstrap
from tasks.evaluation.logistic import fit, sigmoid


@dataclass(frozen=True)
class LengthEffect:
    """Of one judge's comparisons with one rival.

    controlled: the win rate if all replies were equally long. slope: change of the win rate for a reply that is longer
    by one standard deviation of delta (least squares). delta, deviation: mean and standard deviation of delta,
    characters. bins: (mean delta, win rate, comparisons), comparisons in equal parts from the shortest to the longest.
    """

    controlled: Interval
    slope: Interval
    delta: float
    deviation: float
    bins: list[tuple[float, float, int]]


def length_effect(
    worth: Sequence[float], delta: Sequence[float], prompts: Sequence[str], *, resamples: int, seed: int
) -> LengthEffect:
    """worth: [n] of each comparison to the policy (1, 0.5 or 0); delta: [n] characters; prompts: [n]."""
    won, longer = np.asarray(worth, dtype=np.float64), np.asarray(delta, dtype=np.float64)
    deviation = float(longer.std(ddof=1)) if len(longer) > 1 else 0.0
    scaled = longer / deviation if deviation else np.zeros_like(longer)
    design = np.stack([np.ones_like(scaled), np.tanh(scaled)], axis=1)

    def controlled(weights: np.ndarray) -> np.ndarray:
        return sigmoid(fit(design, won, weights)[:, 0])

    def slope(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(1)
        x, y = weights @ scaled / total, weights @ won / total
        spread = weights @ np.square(scaled) / total - np.square(x)
        together = weights @ (scaled * won) / total - x * y
        found: np.ndarray = np.where(spread > 1e-12, together / np.maximum(spread, 1e-12), 0.0)
        return found

    return LengthEffect(
        controlled=bootstrap(controlled, prompts, resamples=resamples, seed=seed),
        slope=bootstrap(slope, prompts, resamples=resamples, seed=seed),
        delta=float(longer.mean()),
        deviation=deviation,
        bins=_bins(longer, won),
    )


def _bins(longer: np.ndarray, won: np.ndarray, most: int = 6) -> list[tuple[float, float, int]]:
    """Equal parts of the comparisons by delta; comparisons with the same delta stay together."""
    order = np.argsort(longer, kind="stable")
    ends = np.searchsorted(longer[order], np.unique(np.quantile(longer, np.arange(1, most + 1) / most)), side="right")
    found, start = [], 0
    for end in ends.tolist():
        if end > start:
            part = order[start:end]
            found.append((float(longer[part].mean()), float(won[part].mean()), len(part)))
            start = end
    return found
