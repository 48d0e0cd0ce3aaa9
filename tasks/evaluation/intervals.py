"""Means with 95 % intervals: win rates from votes and rates from scores, resampled by prompt.

Replies to one prompt share its difficulty, so prompts are independent and rows are not. The bootstrap therefore draws
prompts with replacement, each with all its rows (percentile bootstrap, Efron and Tibshirani 1993, section 13.3).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from storage.arrays import Floats, Ints

#: The value of a vote for a. Other outcomes do not show which reply is better, and are left out.
WORTH = {"a": 1.0, "tie": 0.5, "b": 0.0}
EXCLUDED = ("abstain", "error")

_CONFIDENCE = (0.025, 0.975)
_DRAWS = 1 << 22  # prompts drawn in one block: limits the memory of a bootstrap (32 MiB of indices)


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values with its 95 % interval (equal to the mean when all values come from one prompt)."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bootstrap:
    """How resamples are drawn."""

    resamples: int
    seed: int


def bootstrap_mean(values: Sequence[float] | Floats, prompts: Sequence[str], draw: Bootstrap) -> Interval:
    """Mean over `values` [n] and its 95 % percentile interval over resampled prompts.

    prompts: [n], the prompt of each value. The result does not depend on the order of prompts. The same prompts and
    seed draw the same resamples, so that all metrics of one evaluation are resampled together.
    Raises ValueError without values, and for a value that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("there are no values to average")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {len(array)} values are not finite")
    names, of_prompt = np.unique(np.asarray(prompts), return_inverse=True)
    sums = np.bincount(of_prompt, weights=array)
    counts = np.bincount(of_prompt)
    drawn = _drawn(len(names), draw)
    means = np.concatenate([sums[block].sum(1) / counts[block].sum(1) for block in drawn])
    low, high = np.quantile(means, _CONFIDENCE)
    return Interval(mean=float(sums.sum() / counts.sum()), low=float(low), high=float(high), n=len(array))


def bootstrap(statistic: Callable[[Floats], Floats], prompts: Sequence[str], draw: Bootstrap) -> Interval:
    """A statistic of n rows and its 95 % percentile interval over resampled prompts.

    statistic: from weights of rows [r, n] (how often each row's prompt is drawn) to its value for each resample, [r].
    prompts: [n], the prompt of each row. Resamples are those of `bootstrap_mean`. Resamples in which the statistic is
    not finite (a share of nothing) are left out.
    """
    names, of_prompt = np.unique(np.asarray(prompts), return_inverse=True)
    parts = []
    for block in _drawn(len(names), draw, rows=len(of_prompt)):
        places = np.arange(len(block))[:, None] * len(names) + block
        counts = np.bincount(places.ravel(), minlength=len(block) * len(names)).reshape(len(block), len(names))
        parts.append(statistic(counts.astype(np.float64)[:, of_prompt]))
    values = np.concatenate(parts)
    low, high = np.quantile(values[np.isfinite(values)], _CONFIDENCE)
    mean = float(statistic(np.ones((1, len(of_prompt))))[0])
    return Interval(mean=mean, low=float(low), high=float(high), n=len(of_prompt))


def _drawn(prompts: int, draw: Bootstrap, rows: int = 0) -> Iterator[Ints]:
    """Positions of drawn prompts in blocks [r, prompts]. The size of the blocks does not change the draws."""
    rng = np.random.default_rng(draw.seed)
    block = max(1, _DRAWS // max(prompts, rows))
    for start in range(0, draw.resamples, block):
        yield rng.integers(prompts, size=(min(block, draw.resamples - start), prompts))


def win_rate(outcomes: Sequence[str], prompts: Sequence[str], draw: Bootstrap) -> Interval | None:
    """How often a wins: the mean over comparisons [n] with a winner or a tie; a tie is half a win.

    None when every comparison is an abstention or an error. Raises ValueError for an outcome that is not in
    storage.schemas.VOTES.
    """
    unknown = set(outcomes) - set(WORTH) - set(EXCLUDED)
    if unknown:
        raise ValueError(f"unknown outcomes: {sorted(unknown)}")
    counted = [(WORTH[o], prompt) for o, prompt in zip(outcomes, prompts, strict=True) if o in WORTH]
    if not counted:
        return None
    values, of_prompt = zip(*counted, strict=True)
    return bootstrap_mean(values, of_prompt, draw)


def excluded(outcomes: Sequence[str]) -> dict[str, int]:
    """How many outcomes are left out of a mean, by reason, including reasons with 0."""
    counts = Counter(outcomes)
    return {reason: counts[reason] for reason in EXCLUDED}
