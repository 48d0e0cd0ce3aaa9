"""Which pairs a margin keeps: SeRA's vector, ties, unknown scores, and the stage."""

from typing import Any

import pyarrow as pa
import pytest

from storage.schemas import SCORES
from tasks.labeling.margin_filter import ScoreMarginFilter, keep_by_scores
from tasks.labeling.stage import run
from tests.panel.conftest import World

#: scores of chosen and rejected of every pair; None: not scored
Sides = tuple[list[float | None], list[float | None]]

NOW: Sides = ([0.7, 0.2, -0.1, 0.9], [-0.4, 0.1, 0.3, 0.2])  # methods 5.1: h of chosen and rejected, four pairs
BEFORE: list[float | None] = [0.1, 0.9, 0.0, 0.2]  # margins one iteration earlier


def pairs(targets: list[float]) -> pa.Table:
    n = len(targets)
    columns = {"prompt_id": [f"p{i}" for i in range(n)], "chosen_index": [0] * n, "rejected_index": [1] * n}
    return pa.table(columns | {"target": pa.array(targets, pa.float64())})


def scores(**annotators: Sides) -> pa.Table:
    rows = []
    for name, (chosen, rejected) in annotators.items():
        for i, both in enumerate(zip(chosen, rejected, strict=True)):
            for index, value in enumerate(both):
                row = {"prompt_id": f"p{i}", "response_index": index, "annotator": name, "score": value}
                rows.append(dict.fromkeys(SCORES.names) | row)
    return pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in SCORES]))


def kept(settings: dict[str, Any], table: pa.Table, given: pa.Table | None = None) -> list[int]:
    rows, left_out = keep_by_scores(
        table, SCORES.empty_table() if given is None else given, ScoreMarginFilter(**settings)
    )
    assert len(rows) + left_out == len(table)
    return [int(name[1:]) for name in rows["prompt_id"].to_pylist()]


def test_the_vector_of_sera() -> None:
    given = scores(now=NOW, before=(BEFORE, [0.0] * 4))
    table = pairs([1.0] * 4)
    assert kept({"share": 0.5, "margin_of": {"now": 1.0}}, table, given) == [0, 3]
    assert kept({"share": 0.5, "margin_of": {"now": 0.7, "before": 0.3}}, table, given) == [0, 3]
    # m = (.80, .34, -.28, .55)
    assert kept({"share": 0.75, "margin_of": {"now": 0.7, "before": 0.3}}, table, given) == [0, 1, 3]
    assert kept({"share": 0.25, "margin_of": {"before": 1.0}}, table, given) == [1]


def test_without_annotators_the_target_is_the_margin() -> None:
    assert kept({"share": 0.5}, pairs([0.1, 2.0, 0.5, 1.0])) == [1, 3]
    assert kept({"share": 0.5}, pairs([1.0, 1.0, 1.0])) == [0, 1]  # two of three; of equals the first
    assert kept({"share": 1.0}, pairs([1.0, 0.0])) == [0, 1]


def test_a_pair_without_a_score_is_left_out() -> None:
    given = scores(now=([0.7, None, -0.1, 0.9], NOW[1]))
    assert kept({"share": 1.0, "margin_of": {"now": 1.0}}, pairs([1.0] * 4), given) == [0, 2, 3]


def test_the_stage_counts_what_it_leaves_out(world: World) -> None:
    annotators: dict[str, dict[str, object]] = {
        "length": {"kind": "function", "function": "voters:length"},
        "brief": {"kind": "rule", "shorter": True},
    }
    texts = {f"p{i}": ["x" * (1 + i), "yy" * (1 + i), "z z z"] for i in range(4)}
    whole = run(world.spec(texts, annotators, out="whole"))
    keep = {"share": 0.5, "margin_of": {"length": 1.0}}
    some = run(world.spec(texts, annotators, out="some", preferences={"keep": keep, "weights": {"length": 0.0}}))
    assert some.rows["preferences"] == -(-whole.rows["preferences"] // 2)
    assert some.summary["dropped"]["margin"] == whole.rows["preferences"] - some.rows["preferences"]
    assert some.rows["votes"] == whole.rows["votes"]


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        ScoreMarginFilter(share=share)
