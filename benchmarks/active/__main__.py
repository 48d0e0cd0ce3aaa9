"""Judge calls saved by asking only where cheap annotators disagree (`panel.active`), in the tabular world.

    python -m benchmarks.active              # about half a minute on one core

A prompt's responses are compared by a small ensemble of proxy reward models, each the reward plus errors of its own and
one that they share, and, for a share of the prompts, by a judge (five honest votes a pair). Targets pool all votes.
Figures are total variation to pi*, and how many judge calls random prompts need for the same distance. Leaves with 1
when active selection is not better than random at a quarter and at half of the prompts.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.table import Table

from benchmarks.gap.bound import SIZE, targets
from benchmarks.report import Report
from benchmarks.tabular.regression import regress
from benchmarks.tabular.targets import Spread, spread
from benchmarks.tabular.world import World, compared_pairs, count_votes, make_world, sample_groups, softmax
from storage.arrays import Bools, Floats, Ints
from tasks.labeling.aggregation import Votes, sigmoid
from tasks.labeling.aggregation.votes import concatenate
from tasks.panel.active import most_unsure

_PROMPTS, _RESPONSES, _GROUPS, _JUDGES = 200, 8, 2, 5
SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Proxies:
    """Reward models: each is the reward plus `own` times noise of its own plus `shared` times noise of them all."""

    number: int = 3
    own: float = 0.8
    shared: float = 0.4


def proxy_votes(world: World, pairs: tuple[Ints, Ints, Ints], proxies: Proxies, rng: np.random.Generator) -> Votes:
    """The proxies' soft votes on each pair, pooled: one row a pair, share = their mean probability for the first."""
    common = proxies.shared * rng.normal(size=world.reward.shape)
    prompt, first, second = pairs
    shares = []
    for _ in range(proxies.number):
        score = world.reward + common + proxies.own * rng.normal(size=world.reward.shape)
        shares.append(sigmoid(score[prompt, first] - score[prompt, second]))
    nobody = np.zeros(len(prompt), dtype=np.int64)
    weight = np.full(len(prompt), float(proxies.number))
    return Votes(prompt, first, second, nobody, np.mean(shares, axis=0), weight, np.zeros(len(prompt), dtype=bool))


def distance(
    world: World, pairs: tuple[Ints, Ints, Ints], cheap: Votes, asked: Bools, rng: np.random.Generator
) -> float:
    """TV to pi* where the judge votes on the prompts `asked` [X]."""
    everywhere = count_votes(world, pairs, _JUDGES, rng)
    judged = everywhere.take(np.flatnonzero(asked[pairs[0]]))
    target, _, weight = targets(world, concatenate([cheap, judged]) if len(judged) else cheap)
    policy = softmax(world.initial + regress(weight, target, np.zeros_like(world.reward), world.beta))
    return float(world.distance(policy).mean())


def one(seed: int, share: float, how: Literal["random", "active"]) -> float:
    """The same world, responses, proxies and judge's votes for every share and way of choosing."""
    rng = np.random.default_rng(seed)
    world = make_world(rng, _PROMPTS, _RESPONSES)
    pairs = compared_pairs(sample_groups(softmax(world.initial), rng, _GROUPS, SIZE))
    cheap = proxy_votes(world, pairs, Proxies(), rng)
    order: Floats = np.random.default_rng(seed + 1000).random(_PROMPTS)
    if how == "active":
        chosen = most_unsure(cheap.prompt, cheap.share, _PROMPTS, share)
    else:
        chosen = np.argsort(order)[: round(share * _PROMPTS)]
    asked = np.zeros(_PROMPTS, dtype=bool)
    asked[chosen] = True
    return distance(world, pairs, cheap, asked, np.random.default_rng(seed + 2000))


def needed(goal: float, shares: list[float], distances: list[float]) -> float | None:
    """The share at which `distances`, which fall, reach `goal`, by linear interpolation; None if they do not."""
    for (s0, d0), (s1, d1) in zip(
        zip(shares, distances, strict=True), zip(shares[1:], distances[1:], strict=True), strict=False
    ):
        if d1 <= goal <= d0:
            return s0 + (d0 - goal) / (d0 - d1) * (s1 - s0) if d0 > d1 else s0
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    report = Report(width=110)
    found: dict[str, list[Spread]] = {
        how: [spread([one(seed, share, how) for seed in range(options.seeds)]) for share in SHARES]
        for how in ("random", "active")
    }
    table = Table("share of prompts judged", "random", "active", "random needs", "judge calls saved")
    plain = [each.mean for each in found["random"]]
    for place, share in enumerate(SHARES):
        random, active = found["random"][place], found["active"][place]
        same = needed(active.mean, list(SHARES), plain)
        saved = None if same is None or not share or share == 1 else 1 - share / same
        table.add_row(
            f"{share:.1%}", f"{random.mean:.4f} ±{random.error:.4f}", f"{active.mean:.4f} ±{active.error:.4f}",
            "-" if same is None else f"{same:.1%}", "-" if saved is None else f"{saved:.0%}",
        )  # fmt: skip
        report.result[f"{share}"] = {"random": random.mean, "active": active.mean, "saved": saved}
        if share in (0.25, 0.5) and not active.mean < random.mean:
            report.missed.append(f"at {share:.0%} active is not better than random")
    report.console.print(table)
    return report.close("active", {"seeds": options.seeds})


if __name__ == "__main__":
    sys.exit(main())
