"""Statistics of annotators, against plain Python over the rows of the vote table."""

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.schemas import SCORES, VOTES
from tasks.labeling.annotator_stats import StatsTables, annotator_stats
from tasks.labeling.preferences import make_preferences
from tasks.labeling.settings import PreferenceSettings
from tasks.panel.responses import read_responses
from tests.panel.conftest import World

Row = dict[str, Any]
#: texts by prompt, votes, preferences, and the tables under test
Stats = tuple[dict[str, list[str]], list[Row], pa.Table, StatsTables]

OUTCOMES = ["a", "b", "tie", "abstain", "error"]


@pytest.fixture
def stats(world: World) -> Stats:
    draw = np.random.default_rng(0)
    texts = {f"p{i}": ["x" * int(draw.integers(1, 9)) + str(k) for k in range(4)] for i in range(30)}
    responses = read_responses("policy", world.responses(texts), world.prompts(list(texts)))
    rows: list[Row] = []
    for name in ("one", "two", "three", "gold"):
        for prompt in texts:
            for i, j in combinations(range(4), 2):
                if name == "three" and draw.random() < 0.3:
                    continue  # a person who did not see them all
                ab, ba = draw.choice(OUTCOMES, 2)
                outcome = str(draw.choice(OUTCOMES, p=[0.35, 0.35, 0.1, 0.1, 0.1]))
                a, b = (i, j) if draw.random() < 0.5 else (j, i)
                row = dict.fromkeys(VOTES.names) | {"prompt_id": prompt, "source_a": "policy", "source_b": "policy"}
                row |= {"index_a": a, "index_b": b, "annotator": name, "kind": "pairs", "outcome": outcome}
                row |= {"order": "both", "ab": str(ab), "ba": str(ba), "tokens": 3, "seconds": 0.5}
                row["faults"] = [None, "HTTP 500", "HTTP 500, ReadTimeout, unanswered"][int(draw.integers(3))]
                rows.append(row)
    votes = pa.Table.from_pylist(rows, schema=VOTES)
    preferences = make_preferences(responses, votes, PreferenceSettings(), 1).table
    return texts, rows, preferences, annotator_stats(responses, votes, SCORES.empty_table(), preferences, ["gold"])


def side(row: Row) -> int | None:
    """1 where the lower index won, -1 where the higher one did, 0 for a tie, None otherwise."""
    if row["outcome"] not in ("a", "b"):
        return 0 if row["outcome"] == "tie" else None
    return 1 if (row["outcome"] == "a") == (row["index_a"] < row["index_b"]) else -1


def where(row: Row) -> tuple[str, int, int]:
    low, high = sorted((row["index_a"], row["index_b"]))
    return row["prompt_id"], low, high


def mean(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def share(flags: Sequence[bool]) -> float | None:
    """Their mean; None without any."""
    return mean(flags) if flags else None


def test_every_figure_of_an_annotator(stats: Stats) -> None:
    texts, rows, preferences, tables = stats
    chosen: dict[tuple[str, int, int], int] = {}
    for row in preferences.to_pylist():
        if row["target"] > 0:
            i, j = row["chosen_index"], row["rejected_index"]
            chosen[row["prompt_id"], min(i, j), max(i, j)] = 1 if i < j else -1
    sides: dict[str, dict[tuple[str, int, int], int | None]] = defaultdict(dict)
    for row in rows:
        sides[row["annotator"]][where(row)] = side(row)
    for figures in tables.annotators.to_pylist():
        name = figures["annotator"]
        own = [row for row in rows if row["annotator"] == name]
        assert [figures[outcome] for outcome in OUTCOMES] == [
            sum(r["outcome"] == outcome for r in own) for outcome in OUTCOMES
        ]
        strict = {at: s for at, s in sides[name].items() if s in (1, -1)}
        assert figures["agrees_with_panel"] == share([s == chosen[at] for at, s in strict.items() if at in chosen])
        others = {at: sum(sides[other].get(at) or 0 for other in sides if other != name) for at in strict}
        assert figures["agrees_with_others"] == share(
            [np.sign(others[at]) == s for at, s in strict.items() if others[at]]
        )
        gold = {at: s for at, s in sides["gold"].items() if s in (1, -1)}
        assert figures["gold_votes"] == len(strict.keys() & gold.keys())
        assert figures["gold_accuracy"] == share([gold[at] == s for at, s in strict.items() if at in gold])
        first = [r[o] == w for r in own for o, w in (("ab", "a"), ("ba", "b")) if r[o] in ("a", "b")]
        assert figures["first_share"] == share(first)
        both = [r["ab"] == r["ba"] for r in own if {r["ab"], r["ba"]} <= {"a", "b", "tie"}]
        assert figures["order_consistency"] == share(both)
        longer: list[bool] = []
        for (prompt, i, j), s in strict.items():
            gap = len(texts[prompt][i]) - len(texts[prompt][j])
            longer += [np.sign(gap) == s] if gap else []
        assert figures["longer_share"] == share(longer)
        circles = triples = 0
        for prompt in texts:
            for i, j, k in combinations(range(4), 3):
                cycle = [strict.get((prompt, i, j)), strict.get((prompt, j, k)), strict.get((prompt, i, k))]
                triples += None not in cycle
                circles += cycle in ([1, 1, -1], [-1, -1, 1])
        assert (figures["triples"], figures["intransitive"]) == (triples, circles)
        assert figures["unanswered"] == sum("unanswered" in (r["faults"] or "") for r in own)
        faults = {name: sum(name in (r["faults"] or "") for r in own) for name in ("HTTP 500", "ReadTimeout")}
        assert json.loads(figures["faults"]) == faults
        assert (figures["tokens"], figures["seconds"], figures["cost"]) == (3 * len(own), 0.5 * len(own), None)


def test_agreement_is_cohens(stats: Stats) -> None:
    _, rows, _, tables = stats
    sides: dict[str, dict[tuple[str, int, int], int | None]] = defaultdict(dict)
    for row in rows:
        if row["outcome"] in ("a", "b", "tie"):
            sides[row["annotator"]][where(row)] = side(row)
    assert len(tables.agreement) == 6
    for figures in tables.agreement.to_pylist():
        one, other = sides[figures["annotator"]], sides[figures["other"]]
        both = sorted(one.keys() & other.keys())
        same = mean([one[at] == other[at] for at in both])
        chance = sum(mean([one[at] == s for at in both]) * mean([other[at] == s for at in both]) for s in (1, 0, -1))
        assert (figures["both"], figures["same"]) == (len(both), pytest.approx(same))
        assert figures["kappa"] == pytest.approx((same - chance) / (1 - chance))
