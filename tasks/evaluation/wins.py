"""Figures from judges' votes and scores: win rates, what length has to do with them, by category, beside the truth."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.evaluation.intervals import WORTH, Interval, bootstrap_mean, excluded, win_rate
from tasks.evaluation.length import LengthEffect, length_effect

POLICY = "policy"  # the judge stage's name for the policy under evaluation: source_a of votes, source of its scores
MOST_CATEGORIES = 40  # the largest ones are told apart

Lengths = Mapping[tuple[str, str, int], int]  # (source, prompt, index) -> characters of the reply


@dataclass(frozen=True)
class Gap:
    """A judge beside the truth, over comparisons that both decided.

    difference: its win rate less the truth's. agreement: share of comparisons with the same outcome.
    """

    difference: Interval
    agreement: Interval


@dataclass(frozen=True)
class Category:
    """Figures of the held-out prompts of one category, as in `Metrics`."""

    prompts: int
    win_rate: dict[str, dict[str, Interval]]
    rates: dict[str, Interval]


@dataclass(frozen=True)
class Drawing:
    """How intervals are drawn."""

    resamples: int
    seed: int


def grouped(table: pa.Table, by: Sequence[str], columns: Sequence[str]) -> dict[tuple[str, ...], list[tuple[Any, ...]]]:
    """Rows of `columns` by the values of `by`, groups sorted by those values, rows in file order."""
    groups = defaultdict(list)
    keys = zip(*(table[name].to_pylist() for name in by), strict=True)
    for key, row in zip(keys, zip(*(table[name].to_pylist() for name in columns), strict=True), strict=True):
        groups[key].append(row)
    return dict(sorted(groups.items()))


def win_rates(
    votes: pa.Table, draw: Drawing
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, dict[str, int]]]]:
    """Win rates [source][judge] of the policy, and what did not count."""
    rates: dict[str, dict[str, Interval]] = {}
    left_out: dict[str, dict[str, dict[str, int]]] = {}
    for (source, judge), rows in grouped(votes, ("source_b", "annotator"), ("outcome", "prompt_id")).items():
        outcomes, prompts = zip(*rows, strict=True)
        rates.setdefault(source, {})
        left_out.setdefault(source, {})[judge] = excluded(outcomes)
        rate = win_rate(outcomes, prompts, resamples=draw.resamples, seed=draw.seed)
        if rate is not None:
            rates[source][judge] = rate
    return rates, left_out


def mean_scores(scores: pa.Table, draw: Drawing) -> tuple[dict[str, Interval], dict[str, dict[str, int]]]:
    """Mean score [annotator] of the policy's replies, and what did not count."""
    rates: dict[str, Interval] = {}
    left_out: dict[str, dict[str, int]] = {}
    groups = grouped(scores, ("source", "annotator"), ("outcome", "score", "prompt_id"))
    for (source, annotator), rows in groups.items():
        if source != POLICY:
            continue
        left_out[annotator] = excluded([outcome for outcome, _, _ in rows])
        scored = [(score, prompt) for outcome, score, prompt in rows if outcome == "score"]
        if scored:
            values, prompts = zip(*scored, strict=True)
            rates[annotator] = bootstrap_mean(values, prompts, resamples=draw.resamples, seed=draw.seed)
    return rates, left_out


def length_effects(votes: pa.Table, lengths: Lengths, draw: Drawing) -> dict[str, dict[str, LengthEffect]]:
    """[source][judge], of comparisons whose replies' lengths are known and that the judge decided or tied."""
    found: dict[str, dict[str, LengthEffect]] = {}
    columns = ("outcome", "prompt_id", "index_a", "index_b")
    for (source, judge), rows in grouped(votes, ("source_b", "annotator"), columns).items():
        counted = [
            (WORTH[outcome], lengths[POLICY, prompt, a] - lengths[source, prompt, b], prompt)
            for outcome, prompt, a, b in rows
            if outcome in WORTH and (source, prompt, b) in lengths
        ]
        if counted:
            worth, delta, prompts = zip(*counted, strict=True)
            effect = length_effect(worth, delta, prompts, resamples=draw.resamples, seed=draw.seed)
            found.setdefault(source, {})[judge] = effect
    return found


def gaps(votes: pa.Table, truth: str, draw: Drawing) -> dict[str, dict[str, Gap]]:
    """[source][judge] of every judge but `truth`, on the comparisons that both decided or tied."""
    columns = ("outcome", "prompt_id", "index_a", "index_b")
    groups = grouped(votes, ("source_b", "annotator"), columns)
    found: dict[str, dict[str, Gap]] = {}
    for (source, judge), rows in groups.items():
        known = {(p, a, b): outcome for outcome, p, a, b in groups.get((source, truth), []) if outcome in WORTH}
        both = [(o, known[p, a, b], p) for o, p, a, b in rows if o in WORTH and (p, a, b) in known]
        if judge == truth or not both:
            continue
        prompts = [prompt for _, _, prompt in both]
        more = [WORTH[said] - WORTH[true] for said, true, _ in both]
        same = [float(said == true) for said, true, _ in both]
        found.setdefault(source, {})[judge] = Gap(
            bootstrap_mean(more, prompts, resamples=draw.resamples, seed=draw.seed),
            bootstrap_mean(same, prompts, resamples=draw.resamples, seed=draw.seed),
        )
    return found


def by_category(
    votes: pa.Table, scores: pa.Table, categories: Mapping[str, str | None], draw: Drawing
) -> dict[str, Category]:
    """Figures by category (of each prompt); {} where there are not two. Prompts without one are left out."""
    counts = Counter(name for name in categories.values() if name is not None)
    largest = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CATEGORIES]
    if len(counts) < 2:
        return {}
    of_vote, of_score = ([categories.get(p) for p in table["prompt_id"].to_pylist()] for table in (votes, scores))
    found = {}
    for name in sorted(largest):
        mine = [table.filter(pa.array([each == name for each in of], pa.bool_()))
                for table, of in ((votes, of_vote), (scores, of_score))]  # fmt: skip
        found[name] = Category(counts[name], win_rates(mine[0], draw)[0], mean_scores(mine[1], draw)[0])
    return found
