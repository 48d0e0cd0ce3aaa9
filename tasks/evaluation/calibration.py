"""Metrics on pairs that no round trains on: do implicit rewards agree with the panel, and how do log-probabilities of
preferred and other replies change?

The pairs are replies of the initial policy to held-out prompts, labelled by the panel once a run, so that they are the
same for every round. For a pair with empirical preference p, the policy's own preference is

    sigmoid(m),   m = beta * [ log pi(y1)/pi_ref(y1) - log pi(y2)/pi_ref(y2) ]

with the beta and the reference of training. A calibrated policy has m = logit(p) on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage.arrays import Floats, Ints
from tasks.evaluation.intervals import Bootstrap, Interval, bootstrap, bootstrap_mean
from tasks.evaluation.logistic import fit, sigmoid

_BINS = 8
_LOOSE = 1e4  # variance of the slope's prior
_EVEN = 1e-9  # a preference closer to one half prefers neither reply


@dataclass(frozen=True)
class Calibration:
    """accuracy: share of pairs (with p other than 1/2) on which policy and panel agree; a margin of 0 counts as half.

    slope: a in P(1) = sigmoid(a * m), fitted to p. Below 1 the policy is more confident than the panel, above 1 less.
    error: expected calibration error, mean over bins of |confidence - p|; noise makes it larger, never smaller.
    bins: (confidence, p of the reply that the policy prefers, pairs), equal parts of the pairs by confidence.
    """

    accuracy: Interval
    slope: Interval
    error: Interval
    bins: list[tuple[float, float, int]]


@dataclass(frozen=True)
class Displacement:
    """Mean change of log-probability, nats a reply, of replies that the panel prefers and of the others.

    Pairs with p = 1/2 are left out. initial: since the initial policy; round: in this round.
    """

    chosen_initial: Interval
    rejected_initial: Interval
    chosen_round: Interval
    rejected_round: Interval


def calibration(margins: Floats, preferences: Floats, prompts: Sequence[str], draw: Bootstrap) -> Calibration | None:
    """margins: [n], m of each pair; preferences: [n], p of each pair; prompts: [n]. None when every p is 1/2."""
    decided = np.abs(preferences - 0.5) > _EVEN
    if not decided.any():
        return None
    side = np.where(margins >= 0, 1.0, -1.0)
    confidence = sigmoid(np.abs(margins))
    preferred = 0.5 + side * (preferences - 0.5)  # p of the reply that the policy prefers
    agrees = np.where(margins == 0, 0.5, (margins > 0) == (preferences > 0.5))[decided].astype(np.float64)
    part = _parts(confidence)
    size = int(part.max()) + 1
    gaps = np.zeros((len(margins), size))
    gaps[np.arange(len(margins)), part] = confidence - preferred

    def slope(weights: Floats) -> Floats:
        value: Floats = fit(margins[:, None], preferences, weights, variance=_LOOSE)[:, 0]
        return value

    def error(weights: Floats) -> Floats:
        value: Floats = np.abs(weights @ gaps).sum(1) / weights.sum(1)
        return value

    of_decided = [prompt for prompt, kept in zip(prompts, decided, strict=True) if kept]
    return Calibration(
        accuracy=bootstrap_mean(agrees.tolist(), of_decided, draw),
        slope=bootstrap(slope, prompts, draw),
        error=bootstrap(error, prompts, draw),
        bins=[
            (float(confidence[part == i].mean()), float(preferred[part == i].mean()), int((part == i).sum()))
            for i in range(size)
        ],
    )


def _parts(confidence: Floats) -> Ints:
    """[n]: the bin of each pair, by increasing confidence. Equal confidences share a bin; empty bins are left out."""
    edges = np.quantile(confidence, np.arange(1, _BINS) / _BINS)
    _, part = np.unique(np.searchsorted(edges, confidence, side="right"), return_inverse=True)
    return np.asarray(part)


def displacement(
    initial: Floats, this_round: Floats, preferences: Floats, prompts: Sequence[str], draw: Bootstrap
) -> Displacement | None:
    """initial, this_round: [n, 2], change of log-probability of the chosen and the rejected reply of each pair, nats,
    since the initial policy and since the policy that the round started from. None when every p is 1/2."""
    decided = np.abs(preferences - 0.5) > _EVEN
    if not decided.any():
        return None
    of_decided = [prompt for prompt, kept in zip(prompts, decided, strict=True) if kept]

    def mean(changes: Floats) -> Interval:
        return bootstrap_mean(changes[decided].tolist(), of_decided, draw)

    return Displacement(mean(initial[:, 0]), mean(initial[:, 1]), mean(this_round[:, 0]), mean(this_round[:, 1]))
