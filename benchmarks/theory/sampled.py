"""Rounds of sampling, voting, estimating and minimising, with the project's own estimator and objectives.

K = 20 responses, 50 prompts, groups of four; by default eight groups a prompt and round, all rounds' votes replayed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.aggregation.tables import BOUNDS, GROUPS, PROMPTS, RESPONSES, ROUNDS, SIZE
from benchmarks.tabular.regression import regress
from benchmarks.tabular.solve import Anchor, Policies, from_tables, hard, merged, minimise
from benchmarks.tabular.targets import Spread, pooled_targets, single_targets, spread
from benchmarks.tabular.world import (
    World,
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
from tasks.training.objectives.dpo import Dpo
from tasks.training.objectives.ipo import Ipo
from tasks.training.objectives.irepo import Irepo

__all__ = ["BOUNDS", "Setting", "by_rounds", "equal_to_soft_dpo", "solved_exactly"]

#: (world, the votes so far, policies) -> logits of the next policy
Method = Callable[[World, Votes, Policies], Floats]
_PRIOR_VARIANCE = float(PreferenceSettings().prior_variance)


def irepo(world: World, votes: Votes, policies: Policies, targets: PreferenceSettings | None = None) -> Floats:
    """Targets of the strengths fitted to all votes of a prompt."""
    target, weight = pooled_targets(world, votes, targets or PreferenceSettings())
    settings = Irepo(beta=world.beta)
    return minimise(settings, from_tables(target, weight), policies, Anchor(policies.previous))


def irepo_reliable(world: World, votes: Votes, policies: Policies) -> Floats:
    """As `irepo`, with annotators weighted by how reliable their votes show them to be."""
    return irepo(world, votes, policies, PreferenceSettings(reliability="em"))


def irepo_single(world: World, votes: Votes, policies: Policies) -> Floats:
    """Every comparison by itself, with the empirical logit (alpha = 0.5) of its own votes."""
    target, weight = single_targets(world, votes, PreferenceSettings())
    return minimise(Irepo(beta=world.beta), from_tables(target, weight), policies, Anchor(policies.previous))


def dpo_soft(world: World, votes: Votes, policies: Policies) -> Floats:
    """Every single vote, and on the strengths the prior that the estimator has."""
    wins = votes.wins((world.reward.shape[0], world.reward.shape[1]))
    weight = wins + wins.transpose(0, 2, 1)
    share = np.divide(wins, weight, out=np.full_like(wins, 0.5), where=weight > 0)
    with np.errstate(divide="ignore"):
        label = np.log(share) - np.log1p(-share)
    prior = Anchor(policies.reference, world.beta**2 / (2 * _PRIOR_VARIANCE))
    return minimise(Dpo(beta=world.beta, labels="soft"), from_tables(label, weight), policies, prior)


def dpo_majority(world: World, votes: Votes, policies: Policies) -> Floats:
    """The majority of each comparison's votes as its hard label. Where they are all alike there is no optimum."""
    return minimise(Dpo(beta=world.beta), hard(_majorities(world, votes)), policies, Anchor(policies.previous))


def ipo_majority(world: World, votes: Votes, policies: Policies) -> Floats:
    """The same labels, with IPO's bounded target; tau = 0.35 was the best of several for this world."""
    return minimise(Ipo(beta=0.35 * world.beta), hard(_majorities(world, votes)), policies, Anchor(policies.previous))


def _majorities(world: World, votes: Votes) -> Floats:
    first = votes.share > 0.5
    chosen, rejected = np.where(first, votes.first, votes.second), np.where(first, votes.second, votes.first)
    return merged(votes.prompt, chosen, rejected, (world.reward.shape[0], world.reward.shape[1]))


@dataclass(frozen=True)
class Setting:
    """One row of a table. `voters`: honest votes a pair, or the honesty of each annotator."""

    method: Method
    voters: int | list[float]
    groups: int = GROUPS
    rounds: int = ROUNDS
    replay: bool = True
    reference: str = "initial"


@dataclass(frozen=True)
class Distances:
    """After each round: to pi* = pi_0 exp(r / beta), and to pi_0 exp(t r / beta) after round t."""

    optimum: list[Spread]
    sharpened: list[Spread]


def by_rounds(setting: Setting, seeds: int) -> Distances:
    """Total variation, means over prompts and seeds."""
    optimum: list[list[float]] = [[] for _ in range(setting.rounds)]
    sharpened: list[list[float]] = [[] for _ in range(setting.rounds)]
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        world = make_world(rng, PROMPTS, RESPONSES)
        logits, votes = world.initial, list[Votes]()
        for done in range(setting.rounds):
            votes = [*(votes if setting.replay else []), cast(world, logits, setting, rng)]
            reference = logits if setting.reference == "previous" else world.initial
            logits = setting.method(world, concatenate(votes), Policies(reference, logits))
            policy = softmax(logits)
            optimum[done].append(float(world.distance(policy).mean()))
            goal = softmax(world.initial + (done + 1) * world.reward / world.beta)
            sharpened[done].append(float(np.abs(policy - goal).sum(axis=1).mean() / 2))
    return Distances([spread(each) for each in optimum], [spread(each) for each in sharpened])


def cast(world: World, logits: Floats, setting: Setting, rng: np.random.Generator) -> Votes:
    """Votes on pairs of responses that the policy of `logits` has sampled."""
    pairs = compared_pairs(sample_groups(softmax(logits), rng, setting.groups, SIZE))
    if isinstance(setting.voters, int):
        return count_votes(world, pairs, setting.voters, rng)
    return cast_votes(world, pairs, np.array(setting.voters), rng)


def equal_to_soft_dpo(seeds: int, voters: int) -> tuple[float, float, float]:
    """Distances after four rounds of pooled iREPO and of DPO on every vote with the same prior, and how far apart the
    two policies are (mean total variation) when they learn from the same votes."""
    ours, theirs = (by_rounds(Setting(method, voters), seeds).optimum[-1].mean for method in (irepo, dpo_soft))
    apart = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        world = make_world(rng, PROMPTS, RESPONSES)
        votes = cast(world, world.initial, Setting(irepo, voters, groups=ROUNDS * GROUPS), rng)
        start = Policies(world.initial, world.initial)
        one, two = (softmax(method(world, votes, start)) for method in (irepo, dpo_soft))
        apart.append(float(np.abs(one - two).sum(axis=1).mean() / 2))
    return ours, theirs, float(np.mean(apart))


def solved_exactly(voters: int = 5) -> float:
    """Largest total variation, over prompts, between what L-BFGS makes of the iREPO objective and the closed form."""
    rng = np.random.default_rng(0)
    world = make_world(rng, PROMPTS, RESPONSES)
    votes = cast(world, world.initial, Setting(irepo, voters), rng)
    target, weight = pooled_targets(world, votes, PreferenceSettings())
    closed = softmax(world.initial + regress(weight, target, np.zeros_like(world.reward), world.beta))
    found = softmax(irepo(world, votes, Policies(world.initial, world.initial)))
    return float(np.abs(closed - found).sum(axis=1).max() / 2)
