"""What the endpoint saw against what the stage published."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.panel.endpoint import TIMEOUT, TRANSPORT, verdict
from benchmarks.panel.world import World

Calls = list[dict[str, Any]]
_ANSWERED = (None, "no verdict", "fooled")
_EDGE = 1.0  # seconds between the endpoint's answer and the client's knowing it, on a busy machine


def expected_outcomes(world: World, calls: Calls) -> dict[tuple[str, str, int, int], str]:
    """(judge, prompt, i, j) -> the outcome that the judge's last reply to either order amounts to."""
    last: dict[tuple[str, tuple[float, ...]], dict[str, Any]] = {}
    for call in sorted(calls, key=lambda call: call["started"]):
        last[call["model"], tuple(call["shown"])] = call
    judges = {model for model, _ in last}
    expected = {}
    for judge in judges:
        for (prompt, i, j), (first, second) in world.comparisons().items():
            both = [last.get((judge, shown)) for shown in ((first, second), (second, first))]
            if any(call is None or call["fault"] is not None or _too_late(call) for call in both):
                outcome = "error"
            else:
                outcome = {"A": "a", "B": "b", "C": "tie"}[verdict(first, second)]
            expected[judge, prompt, i, j] = outcome
    return expected


def invented(world: World, calls: Calls, folder: Path) -> Counter[str]:
    """Votes that are not what the judge said, by "said, voted"."""
    expected = expected_outcomes(world, calls)
    wrong: Counter[str] = Counter()
    for row in pq.read_table(folder / "votes.parquet").to_pylist():
        key = row["annotator"], row["prompt_id"], row["index_a"], row["index_b"]
        if key in expected and row["outcome"] != expected[key]:
            wrong[f"said {expected[key]}, voted {row['outcome']}"] += 1
    return wrong


def fault_counts(calls: Calls) -> dict[str, dict[str, int]]:
    """Per judge: faults of transport as the client names them, injected."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for call in calls:
        if _too_late(call):
            counts[call["model"]]["timeout"] += 1
        elif call["fault"] in TRANSPORT:
            counts[call["model"]][TRANSPORT[call["fault"]]] += 1
    return {judge: dict(sorted(count.items())) for judge, count in counts.items()}


def reported_faults(folder: Path) -> dict[str, dict[str, int]]:
    rows = pq.read_table(folder / "annotators.parquet").to_pylist()
    return {row["annotator"]: json.loads(row["faults"]) for row in rows if row["seconds"] is not None}


def errors(folder: Path) -> dict[str, int]:
    return {row["annotator"]: row["error"] for row in pq.read_table(folder / "annotators.parquet").to_pylist()}


def asked_again(calls: Calls, killed: float) -> tuple[int, int]:
    """Comparisons asked again after the kill: (those whose answer to both orders was there, those under way)."""
    by_question: dict[tuple[str, frozenset[float]], Calls] = defaultdict(list)
    for call in calls:
        by_question[call["model"], frozenset(call["shown"])].append(call)
    known = under_way = 0
    for asked in by_question.values():
        before = [call for call in asked if call["started"] < killed]
        if not before or len(before) == len(asked):
            continue
        last = {tuple(call["shown"]): call for call in sorted(before, key=lambda call: float(call["started"]))}
        answered = [call for call in last.values() if call["fault"] in _ANSWERED and not _too_late(call)]
        orders = {tuple(call["shown"]) for call in answered if call["ended"] < killed - _EDGE}
        known += len(orders) == 2
        under_way += len(orders) < 2
    return known, under_way


def _too_late(call: dict[str, Any]) -> bool:
    """Whether the client had stopped waiting when the answer came."""
    late: bool = call["ended"] - call["started"] > TIMEOUT
    return late
