"""Metrics from judges' votes and scores: win rates, effect of length, categories, and difference from the truth."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.evaluation.intervals import WORTH, Bootstrap, Interval, bootstrap_mean, excluded, win_rate
from tasks.evaluation.length import LengthEffect, length_effect

POLICY = "policy"  # the evaluated policy in the judge stage: source_a of votes, source of its scores
MOST_CATEGORIES = 40  # the largest ones have metrics of their own

Lengths = Mapping[tuple[str, str, int], int]  # (source, prompt, index) -> characters of the reply


@dataclass(frozen=True)
class Gap:
    """A judge compared with the truth, over comparisons that both decided or tied.

    difference: its win rate minus the truth's. agreement: share of comparisons with the same outcome.
    """

    difference: Interval
    agreement: Interval


@dataclass(frozen=True)
class Category:
    """Metrics of the held-out prompts in one category, as in `Metrics`."""

    prompts: int
    win_rate: dict[str, dict[str, Interval]]
    rates: dict[str, Interval]


def grouped(table: pa.Table, by: Sequence[str], columns: Sequence[str]) -> dict[tuple[str, ...], list[tuple[Any, ...]]]:
    """Rows of `columns` by the values of `by`, groups sorted by those values, rows in file order."""
    groups = defaultdict(list)
    keys = zip(*(table[name].to_pylist() for name in by), strict=True)
    for key, row in zip(keys, zip(*(table[name].to_pylist() for name in columns), strict=True), strict=True):
        groups[key].append(row)
    return dict(sorted(groups.items()))


def win_rates(
    votes: pa.Table, draw: Bootstrap
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, dict[str, int]]]]:
    """Win rates [source][judge] of the policy, and how many outcomes are left out, by reason."""
    rates: dict[str, dict[str, Interval]] = {}
    left_out: dict[str, dict[str, dict[str, int]]] = {}
    for (source, judge), rows in grouped(votes, ("source_b", "annotator"), ("outcome", "prompt_id")).items():
        outcomes, prompts = zip(*rows, strict=True)
        rates.setdefault(source, {})
        left_out.setdefault(source, {})[judge] = excluded(outcomes)
        rate = win_rate(outcomes, prompts, draw)
        if rate is not None:
            rates[source][judge] = rate
    return rates, left_out


def mean_scores(scores: pa.Table, draw: Bootstrap) -> tuple[dict[str, Interval], dict[str, dict[str, int]]]:
    """Mean score [annotator] of the policy's replies, and how many outcomes are left out, by reason."""
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
            rates[annotator] = bootstrap_mean(values, prompts, draw)
    return rates, left_out


def length_effects(votes: pa.Table, lengths: Lengths, draw: Bootstrap) -> dict[str, dict[str, LengthEffect]]:
    """[source][judge], over comparisons that the judge decided or tied and whose lengths are known."""
    effects: dict[str, dict[str, LengthEffect]] = {}
    columns = ("outcome", "prompt_id", "index_a", "index_b")
    for (source, judge), rows in grouped(votes, ("source_b", "annotator"), columns).items():
        counted = [
            (WORTH[outcome], lengths[POLICY, prompt, a] - lengths[source, prompt, b], prompt)
            for outcome, prompt, a, b in rows
            if outcome in WORTH and (source, prompt, b) in lengths
        ]
        if counted:
            worth, delta, prompts = zip(*counted, strict=True)
            effect = length_effect(worth, delta, prompts, draw)
            effects.setdefault(source, {})[judge] = effect
    return effects


def gaps(votes: pa.Table, truth: str, draw: Bootstrap) -> dict[str, dict[str, Gap]]:
    """[source][judge] of every judge but `truth`, over comparisons that both decided or tied."""
    columns = ("outcome", "prompt_id", "index_a", "index_b")
    groups = grouped(votes, ("source_b", "annotator"), columns)
    differences: dict[str, dict[str, Gap]] = {}
    for (source, judge), rows in groups.items():
        known = {(p, a, b): outcome for outcome, p, a, b in groups.get((source, truth), []) if outcome in WORTH}
        both = [(o, known[p, a, b], p) for o, p, a, b in rows if o in WORTH and (p, a, b) in known]
        if judge == truth or not both:
            continue
        prompts = [prompt for _, _, prompt in both]
        difference = [WORTH[outcome] - WORTH[true] for outcome, true, _ in both]
        same = [float(outcome == true) for outcome, true, _ in both]
        differences.setdefault(source, {})[judge] = Gap(
            bootstrap_mean(difference, prompts, draw), bootstrap_mean(same, prompts, draw)
        )
    return differences


def by_category(
    votes: pa.Table, scores: pa.Table, categories: Mapping[str, str | None], draw: Bootstrap
) -> dict[str, Category]:
    """Metrics by category; {} with fewer than two. categories: of each prompt; None is left out."""
    counts = Counter(name for name in categories.values() if name is not None)
    largest = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CATEGORIES]
    if len(counts) < 2:
        return {}
    of_vote, of_score = ([categories.get(p) for p in table["prompt_id"].to_pylist()] for table in (votes, scores))
    metrics = {}
    for name in sorted(largest):
        own_votes = votes.filter(pa.array([category == name for category in of_vote], pa.bool_()))
        own_scores = scores.filter(pa.array([category == name for category in of_score], pa.bool_()))
        metrics[name] = Category(counts[name], win_rates(own_votes, draw)[0], mean_scores(own_scores, draw)[0])
    return metrics
