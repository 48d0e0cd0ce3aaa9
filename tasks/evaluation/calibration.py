"""What a round did to replies that nobody trained on: are its implicit rewards what the panel says, and do preferred
replies become more likely, or all of them less?

The pairs are replies of the initial policy to held-out prompts, which the panel votes on once a run: the same pairs for
every round. Of a pair with empirical preference p, the policy's own verdict is

    sigmoid(m),   m = beta * [ log pi(y1)/pi_ref(y1) - log pi(y2)/pi_ref(y2) ]

with beta and reference as the round was trained with. A calibrated policy has m = logit(p) on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.evaluation.intervals import Interval, bootstrap, bootstrap_mean
from tasks.evaluation.logistic import fit, sigmoid

_BINS = 8
_LOOSE = 1e4  # variance of the prior of the slope
_EVEN = 1e-9  # a logit closer to 0 prefers neither


@dataclass(frozen=True)
class Calibration:
    """accuracy: share of pairs (p other than 1/2) on which the policy is on the panel's side; a margin of 0 is half.

    slope: a of P(1) = sigmoid(a * m), fitted to p: below 1 the policy is surer than the panel, above 1 less sure.
    error: expected calibration error, mean over bins of |confidence - p| (absolute values: its noise does not cancel).
    bins: (confidence, p of the reply that the policy prefers, pairs), pairs in equal parts by confidence.
    """

    accuracy: Interval
    slope: Interval
    error: Interval
    bins: list[tuple[float, float, int]]


@dataclass(frozen=True)
class Displacement:
    """Mean change of a reply's log-probability, nats a reply, of replies that the panel prefers and that it does not.

    Pairs on which the panel is even are left out. initial: since the initial policy; round: in this round.
    """

    chosen_initial: Interval
    rejected_initial: Interval
    chosen_round: Interval
    rejected_round: Interval


def calibration(
    margins: np.ndarray, preferences: np.ndarray, prompts: Sequence[str], *, resamples: int, seed: int
) -> Calibration | None:
    """margins: [n] m of each pair; preferences: [n] p of each pair; prompts: [n]. None where every pair is even."""
    decided = np.abs(preferences - 0.5) > _EVEN
    if not decided.any():
        return None
    side = np.where(margins >= 0, 1.0, -1.0)
    confidence = sigmoid(np.abs(margins))
    granted = 0.5 + side * (preferences - 0.5)  # p of the side that the policy prefers
    agrees = np.where(margins == 0, 0.5, (margins > 0) == (preferences > 0.5))[decided].astype(np.float64)
    part = _parts(confidence)
    size = int(part.max()) + 1
    gaps = np.zeros((len(margins), size))
    gaps[np.arange(len(margins)), part] = confidence - granted

    def slope(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = fit(margins[:, None], preferences, weights, variance=_LOOSE)[:, 0]
        return found

    def error(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.abs(weights @ gaps).sum(1) / weights.sum(1)
        return found

    of_decided = [prompt for prompt, kept in zip(prompts, decided, strict=True) if kept]
    return Calibration(
        accuracy=bootstrap_mean(agrees.tolist(), of_decided, resamples=resamples, seed=seed),
        slope=bootstrap(slope, prompts, resamples=resamples, seed=seed),
        error=bootstrap(error, prompts, resamples=resamples, seed=seed),
        bins=[
            (float(confidence[part == i].mean()), float(granted[part == i].mean()), int((part == i).sum()))
            for i in range(size)
        ],
    )


def _parts(confidence: np.ndarray) -> np.ndarray:
    """[n] the bin of each pair, 0 from the least sure; equal confidences share a bin, empty bins are left out."""
    edges = np.quantile(confidence, np.arange(1, _BINS) / _BINS)
    _, part = np.unique(np.searchsorted(edges, confidence, side="right"), return_inverse=True)
    return np.asarray(part)


def displacement(
    initial: np.ndarray, this_round: np.ndarray, preferences: np.ndarray, prompts: Sequence[str], *,
    resamples: int, seed: int,
) -> Displacement | None:  # fmt: skip
    """initial, this_round: [n, 2] change of log-probability of the chosen and the rejected reply of each pair, nats,
    since the initial policy and since the policy that the round started from. None where every pair is even."""
    decided = np.abs(preferences - 0.5) > _EVEN
    if not decided.any():
        return None
    of_decided = [prompt for prompt, kept in zip(prompts, decided, strict=True) if kept]

    def mean(changes: np.ndarray) -> Interval:
        return bootstrap_mean(changes[decided].tolist(), of_decided, resamples=resamples, seed=seed)

    return Displacement(mean(initial[:, 0]), mean(initial[:, 1]), mean(this_round[:, 0]), mean(this_round[:, 1]))
