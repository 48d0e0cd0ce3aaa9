"""From the votes of a table to targets of pairs, by the project's own estimators; and means over seeds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.tabular.world import World
from storage.arrays import Floats
from tasks.labeling.aggregation import Votes, empirical_logit
from tasks.labeling.aggregation.estimate import estimate, fit_annotators
from tasks.labeling.settings import PreferenceSettings


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and its standard error."""

    mean: float
    error: float


def spread(values: list[float]) -> Spread:
    """Of the means of several seeds."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))) if values[1:] else 0.0)


def pooled_targets(world: World, votes: Votes, settings: PreferenceSettings) -> tuple[Floats, Floats]:
    """Targets from the project's estimate of all votes of a prompt, and how often each pair was compared."""
    shape = world.reward.shape
    votes = votes.take(np.argsort(votes.prompt, kind="stable"))

    def blocks() -> Iterator[tuple[int, Votes]]:
        yield 0, votes

    names = tuple(f"annotator {k}" for k in range(int(votes.annotator.max()) + 1))
    annotator_fit = fit_annotators(blocks, names, shape[1], settings)
    fitted = estimate(votes, np.ones(shape, dtype=bool), settings, annotator_fit)
    weight = votes.wins((shape[0], shape[1]), weight=np.ones(len(votes)))
    weight = weight + weight.transpose(0, 2, 1)
    x, i, j = np.nonzero(weight)
    target = np.zeros_like(weight)
    target[x, i, j] = fitted.gaps.gaps(x, i, j)[0]
    return target, weight


def single_targets(world: World, votes: Votes, settings: PreferenceSettings) -> tuple[Floats, Floats]:
    """Targets of every comparison by itself (mean over a pair's comparisons), by the empirical logit."""
    shape = (world.reward.shape[0], world.reward.shape[1])
    alone, _ = empirical_logit(votes.share * votes.weight, votes.weight)
    ones = np.ones(len(votes))
    weight = votes.wins(shape, ones, ones)
    total = votes.wins(shape, ones, alone)
    target = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return target - target.transpose(0, 2, 1), weight + weight.transpose(0, 2, 1)
