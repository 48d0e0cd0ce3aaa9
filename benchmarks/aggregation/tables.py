"""(a) The exact tabular world: distance to the optimum after rounds of sampling, voting and regression."""

import numpy as np

from benchmarks.tabular.regression import regress
from benchmarks.tabular.targets import Spread, pooled_targets, single_targets, spread
from benchmarks.tabular.world import (
    cast_votes,
    compared_pairs,
    count_votes,
    make_world,
    sample_groups,
    softmax,
)
from storage.arrays import Floats
from tasks.labeling.aggregation import Votes
from tasks.labeling.aggregation.votes import concatenate
from tasks.labeling.settings import PreferenceSettings

PROMPTS, RESPONSES, GROUPS, SIZE, ROUNDS = 50, 20, 8, 4, 4
#: votes a pair -> largest distance allowed after four rounds
BOUNDS = {1: 0.17, 3: 0.115, 5: 0.09, 9: 0.075, 25: 0.055, 101: 0.04}
PANELS = {
    "9 honest": [1.0] * 9,
    "6 honest, 3 coin flips": [1.0] * 6 + [0.5] * 3,
    "7 honest, 2 adversarial": [1.0] * 7 + [0.0] * 2,
    "6 honest, 3 adversarial": [1.0] * 6 + [0.0] * 3,
    "4 honest, 5 coin flips": [1.0] * 4 + [0.5] * 5,
    "5 honest": [1.0] * 5,
    "4 honest, 1 adversarial": [1.0] * 4 + [0.0],
    "3 honest, 2 coin flips": [1.0] * 3 + [0.5] * 2,
}


def by_votes(seeds: int, voters: int, *, pooled: bool = True, groups: int = GROUPS) -> list[Spread]:
    """Distances after rounds 1 .. 4 for `voters` honest votes on each pair, all rounds' votes replayed.

    `pooled`: targets from the strengths of all of a prompt's votes; otherwise every comparison by its own votes.
    """
    return _rounds(seeds, ROUNDS, groups, None, voters, PreferenceSettings(), pooled=pooled)


def by_panel(seeds: int, honesty: list[float], rule: str, rounds: int = 3) -> list[Spread]:
    """Distances after each of `rounds` for a panel of given honesties; `rule` is preferences.reliability."""
    settings = PreferenceSettings.model_validate({"reliability": rule})
    return _rounds(seeds, rounds, GROUPS, np.array(honesty), 0, settings)


def _rounds(
    seeds: int,
    rounds: int,
    groups: int,
    honesty: Floats | None,
    voters: int,
    settings: PreferenceSettings,
    *,
    pooled: bool = True,
) -> list[Spread]:
    distances: list[list[float]] = [[] for _ in range(rounds)]
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        world = make_world(rng, PROMPTS, RESPONSES)
        votes: list[Votes] = []
        ratio = np.zeros_like(world.reward)
        for done in range(rounds):
            pairs = compared_pairs(sample_groups(softmax(world.initial + ratio), rng, groups, SIZE))
            votes.append(
                count_votes(world, pairs, voters, rng) if honesty is None else cast_votes(world, pairs, honesty, rng)
            )
            # Each comparison is a row of the regression; its votes by several annotators are one row.
            target, weight = (pooled_targets if pooled else single_targets)(world, concatenate(votes), settings)
            ratio = regress(weight, target, ratio, world.beta)
            distances[done].append(float(world.distance(softmax(world.initial + ratio)).mean()))
    return [spread(values) for values in distances]
