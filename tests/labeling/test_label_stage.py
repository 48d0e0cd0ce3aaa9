"""The label stage as a whole: rows, counts, refusals, and bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import UserError
from storage.schemas import AGREEMENT, ANNOTATORS, COUNTED_VOTES, PREFERENCES, SCORES, VOTES
from tasks.labeling.aggregation import bradley_terry
from tasks.labeling.preferences import make_preferences
from tasks.labeling.settings import PreferenceSettings
from tasks.labeling.stage import run
from tasks.panel.responses import read_responses
from tests.panel.conftest import World

SCHEMAS = {
    "scores": SCORES,
    "votes": VOTES,
    "preferences": PREFERENCES,
    "annotators": ANNOTATORS,
    "agreement": AGREEMENT,
    "counted_votes": COUNTED_VOTES,
}
Annotator = dict[str, object]

LENGTH: Annotator = {"kind": "function", "function": "voters:length"}
FAILING: Annotator = {"kind": "function", "function": "voters:failing"}
PERSON: Annotator = {"kind": "simulated", "utility": "voters:quality", "noise": 0.2}
VERIFIER: Annotator = {"kind": "verifier", "method": "contains"}


def ridge_gap(won: float, lost: float) -> float:
    """The gap of two strengths ~ N(0, 2), by bisection: won sigmoid(-g) - lost sigmoid(g) = g / 4."""
    low, high = -20.0, 20.0
    for _ in range(80):
        g = (low + high) / 2
        slope = won / (1 + np.exp(g)) - lost / (1 + np.exp(-g)) - g / 4
        low, high = (g, high) if slope > 0 else (low, g)
    return low


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / f"{name}.parquet").to_pylist()
    return rows


def test_published_files_and_figures(world: World) -> None:
    spec = world.spec(
        {"p": ["aaa", "bb", "c"], "q": ["dd", "ee", "f"]},
        {"length": LENGTH, "person": PERSON | {"utility": "voters:length"}, "check": VERIFIER},
    )
    manifest = run(spec)
    for name, schema in SCHEMAS.items():
        assert pq.read_schema(spec.folder / f"{name}.parquet").equals(schema)
    assert manifest.rows == {"scores": 12, "votes": 18, "preferences": 6}
    assert [entry.path for entry in manifest.files] == [f"{name}.parquet" for name in sorted(SCHEMAS)]
    summary = manifest.summary
    assert (summary["responses"], summary["comparisons"], summary["pairs"]) == (6, 6, 6)
    assert summary["votes"]["length"] == {"a": 5, "tie": 1}
    assert summary["votes"]["check"] == {"abstain": 6}  # the prompts have no answer
    assert [row["agrees_with_panel"] for row in summary["annotators"] if row["annotator"] == "check"] == [None]
    targets = [row["target"] for row in read(spec.folder, "preferences")]
    assert summary["mean_abs_target"] == pytest.approx(np.mean(targets))
    for row in read(spec.folder, "preferences"):
        assert row["votes_abstain"] == 1
        assert row["votes_chosen"] + row["votes_rejected"] + row["votes_tie"] == 2
        assert row["p_hat"] == pytest.approx(1 / (1 + np.exp(-row["target"])))
        assert row["round"] == 1
        assert row["chosen"] == [{"role": "assistant", "content": bytes(row["chosen_ids"][:-1]).decode()}]
        assert row["prompt"] == [{"role": "user", "content": f"ask {row['prompt_id']}"}]
    # Score annotators' votes are not timed: equal runs give equal bytes.
    assert {row["seconds"] for row in read(spec.folder, "votes")} == {None}


def test_targets_are_ridge_bradley_terry_gaps_over_all_votes(world: World) -> None:
    """Votes: 0 > 1 > 2 from two annotators, so 6 wins in one order."""
    spec = world.spec({"p": ["aaa", "bb", "c"]}, {"one": LENGTH, "two": LENGTH})
    run(spec)
    fit = bradley_terry([[[0, 2, 2], [0, 0, 2], [0, 0, 0]]], prior_variance=2.0)
    rows = {(row["chosen_index"], row["rejected_index"]): row for row in read(spec.folder, "preferences")}
    assert set(rows) == {(0, 1), (0, 2), (1, 2)}
    for (i, j), row in rows.items():
        gap, se = fit.gaps(np.array([0]), np.array([i]), np.array([j]))
        assert (row["target"], row["target_se"]) == (pytest.approx(gap[0]), pytest.approx(se[0]))
        assert (row["votes_chosen"], row["votes_rejected"], row["votes_tie"]) == (2, 0, 0)
    assert rows[0, 2]["target"] == pytest.approx(rows[0, 1]["target"] + rows[1, 2]["target"])


def test_single_pairs_and_empirical_logit(world: World, make_world: Callable[[str], World]) -> None:
    spec = world.spec({"p": ["aaa", "bb"]}, {"one": LENGTH, "two": LENGTH, "three": LENGTH})
    run(spec)
    (row,) = read(spec.folder, "preferences")
    gap = ridge_gap(3, 0)
    p = 1 / (1 + np.exp(-gap))
    assert row["target"] == pytest.approx(gap)
    assert row["target_se"] == pytest.approx((3 * p * (1 - p) + 1 / 4) ** -0.5)
    spec = make_world("other").spec(
        {"p": ["c", "bb", "aaa"]}, {"one": LENGTH}, preferences={"estimator": "empirical_logit"}
    )
    run(spec)
    rows = read(spec.folder, "preferences")
    assert [(row["chosen_index"], row["rejected_index"]) for row in rows] == [(1, 0), (2, 0), (2, 1)]
    assert all(row["target"] == pytest.approx(np.log(3)) for row in rows)


def test_equal_strengths_choose_the_lower_index(world: World) -> None:
    spec = world.spec({"p": ["aa", "bb", "cc"]}, {"one": LENGTH})
    run(spec)
    rows = read(spec.folder, "preferences")
    assert [(row["chosen_index"], row["rejected_index"]) for row in rows] == [(0, 1), (0, 2), (1, 2)]
    assert all((row["target"], row["p_hat"], row["votes_tie"]) == (0.0, 0.5, 1) for row in rows)


def test_strengths_that_differ_by_rounding_are_equal(world: World) -> None:
    """Responses 0 and 1 have the same record; their fitted strengths differ by 1e-18."""
    quality = {"kind": "function", "function": "voters:quality"}
    spec = world.spec({"p": ["q2 a", "q2 b", "q1 ccc", "q1 dd", "q1 eee"]}, {"quality": quality, "length": LENGTH})
    run(spec)
    first = read(spec.folder, "preferences")[0]
    assert (first["chosen_index"], first["rejected_index"], first["target"], first["p_hat"]) == (0, 1, 0.0, 0.5)


def test_a_tie_is_half_a_vote_each_way(world: World) -> None:
    """One vote for 0 and one tie: 1.5 of 2."""
    quality = {"kind": "function", "function": "voters:quality"}
    spec = world.spec({"p": ["q2 a", "q1 b"]}, {"quality": quality, "length": LENGTH})
    run(spec)
    (row,) = read(spec.folder, "preferences")
    assert (row["votes_chosen"], row["votes_rejected"], row["votes_tie"]) == (1, 0, 1)
    assert row["target"] == pytest.approx(ridge_gap(1.5, 0.5))


def test_swapping_a_and_b_of_every_vote_changes_nothing(world: World) -> None:
    texts = {f"p{i}": [f"q{j} {'x' * ((i + j) % 3)}" for j in range(4)] for i in range(10)}
    spec = world.spec(texts, {"length": LENGTH, "person": PERSON})
    run(spec)
    votes = pq.read_table(spec.folder / "votes.parquet")
    other = pa.array([{"a": "b", "b": "a"}.get(outcome, outcome) for outcome in votes["outcome"].to_pylist()])
    swapped = pa.table(
        {name: votes[name] for name in votes.column_names}
        | {"index_a": votes["index_b"], "index_b": votes["index_a"], "outcome": other},
        schema=VOTES,
    )
    responses = read_responses("policy", spec.responses.path, spec.prompts.path)
    tables = [make_preferences(responses, rows, PreferenceSettings(), 1).table for rows in (votes, swapped)]
    assert tables[0].equals(tables[1])


def test_best_worst(world: World) -> None:
    texts = {"p": ["bb", "aaa", "c", "dddd"], "q": ["x", "x", "x", "x"], "r": ["gg", "hh", "ii", "jj"]}
    spec = world.spec(texts, {"one": LENGTH}, preferences={"pairs": "best_worst"})
    manifest = run(spec)
    rows = read(spec.folder, "preferences")
    assert [(r["prompt_id"], r["chosen_index"], r["rejected_index"]) for r in rows] == [("p", 3, 2), ("r", 0, 3)]
    assert manifest.summary["dropped"] == {"identical": 1}


def test_dropped_pairs_are_counted_by_reason(world: World) -> None:
    """4 responses, 6 pairs: 0 = 2 as tokens, 3 is cut."""
    spec = world.spec({"p": ["aaa", "b", "aaa", "cc"]}, {"one": LENGTH}, cut=[("p", 3)])
    manifest = run(spec)
    assert manifest.summary["dropped"] == {"truncated": 3, "identical": 1}
    rows = read(spec.folder, "preferences")
    assert [(row["chosen_index"], row["rejected_index"]) for row in rows] == [(0, 1), (2, 1)]
    assert manifest.summary["comparisons"] == 2  # pairs that cannot become preferences are not compared
    # Equal responses are one item: both rows have the two pooled votes' target.
    assert [row["target"] for row in rows] == [pytest.approx(ridge_gap(2, 0))] * 2


def test_truncated_responses_may_stay(world: World) -> None:
    spec = world.spec({"p": ["aaa", "b"]}, {"one": LENGTH}, cut=[("p", 0)], preferences={"drop_truncated": False})
    run(spec)
    (row,) = read(spec.folder, "preferences")
    assert (row["chosen_finish_reason"], row["rejected_finish_reason"]) == ("length", "stop")


def test_failing_annotator_votes_nothing(world: World, make_world: Callable[[str], World]) -> None:
    texts = {"p": ["aaa", "bb", "c"]}
    with_failure = world.spec(texts, {"one": LENGTH, "broken": FAILING})
    manifest = run(with_failure)
    without = make_world("other").spec(texts, {"one": LENGTH})
    run(without)
    for row, expected in zip(
        read(with_failure.folder, "preferences"), read(without.folder, "preferences"), strict=True
    ):
        assert row["votes_error"] == 1
        assert row == expected | {"votes_error": 1}
    assert manifest.summary["votes"]["broken"] == {"error": 3}
    broken = [row for row in read(with_failure.folder, "scores") if row["annotator"] == "broken"]
    assert {(row["outcome"], row["score"]) for row in broken} == {("error", None)}
    assert broken[0]["raw"] == "RuntimeError: no idea about 'aaa'"


def test_quorum(world: World) -> None:
    """`fails_on_bad` has no vote on pairs with 'bad' or 'unknown'; only (0, 1) reaches two votes."""
    partial = {"kind": "function", "function": "voters:fails_on_bad"}
    spec = world.spec(
        {"p": ["good one", "good", "bad", "unknown"]}, {"one": LENGTH, "two": partial}, preferences={"quorum": 2}
    )
    manifest = run(spec)
    (row,) = read(spec.folder, "preferences")
    assert (row["chosen_index"], row["rejected_index"], row["votes_chosen"]) == (0, 1, 2)
    assert manifest.summary["dropped"] == {"quorum": 5}
    assert manifest.summary["votes"]["two"] == {"a": 1, "abstain": 2, "error": 3}


@pytest.mark.parametrize(
    ("texts", "annotators", "cut", "wanted"),
    [
        ({"p": ["a", "bb"]}, {"broken": FAILING}, [], ["{'quorum': 1}", "{'broken': {'error': 1}}", "raw"]),
        ({"p": ["a", "a"]}, {"one": LENGTH}, [], ["{'identical': 1}", "temperature"]),
        ({"p": ["a", "bb"]}, {"one": LENGTH}, [("p", 1)], ["{'truncated': 1}", "max_tokens"]),
        ({"p": ["a"]}, {"one": LENGTH}, [], ["more than one response"]),
    ],
)
def test_no_pair_left_is_the_users_error(
    world: World,
    texts: dict[str, list[str]],
    annotators: dict[str, Annotator],
    cut: list[tuple[str, int]],
    wanted: list[str],
) -> None:
    spec = world.spec(texts, annotators, cut=cut)
    with pytest.raises(UserError) as error:
        run(spec)
    assert all(word in str(error.value) for word in wanted)
    assert not (spec.folder / "manifest.json").exists()


def test_refusals(world: World) -> None:
    with pytest.raises(UserError, match="no annotator"):
        run(world.spec({"p": ["a", "bb"]}, {}))
    spec = world.spec({"p": ["a", "bb"]}, {"one": LENGTH})
    shard = spec.responses.path / "responses-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"responses-00000\.parquet has"):
        run(spec)
    spec = world.spec({"p": ["a", "bb"]}, {"one": LENGTH})
    world.prompts(["other"])
    with pytest.raises(UserError, match="the prompt p is missing"):
        run(spec)


def test_responses_of_different_number(world: World) -> None:
    spec = world.spec({"p": ["aaa", "bb", "c"], "q": ["d"], "r": ["ee", "f"]}, {"one": LENGTH})
    run(spec)
    rows = [(r["prompt_id"], r["chosen_index"], r["rejected_index"]) for r in read(spec.folder, "preferences")]
    assert rows == [("p", 0, 1), ("p", 0, 2), ("p", 1, 2), ("r", 0, 1)]


def test_equal_runs_give_equal_bytes(make_world: Callable[[str], World]) -> None:
    texts = {f"p{i}": [f"q{j} text {'x' * ((i * j) % 5)}" for j in range(4)] for i in range(30)}
    annotators = {"one": LENGTH, "person": PERSON, "check": VERIFIER, "broken": FAILING}
    manifests = [run(make_world(name).spec(texts, annotators, answer="1")) for name in ("a", "b")]
    assert [f.sha256 for f in manifests[0].files] == [f.sha256 for f in manifests[1].files]
    one_shard = run(make_world("d").spec(texts, annotators, answer="1", shards=1))
    assert [f.sha256 for f in manifests[0].files] == [f.sha256 for f in one_shard.files]
    other = run(make_world("c").spec(texts, annotators, answer="1", seed=12))
    assert {f.path for f, g in zip(manifests[0].files, other.files, strict=True) if f.sha256 != g.sha256} == {
        f"{name}.parquet" for name in SCHEMAS if name != "scores"
    }


def test_a_finished_stage_is_adopted(world: World) -> None:
    spec = world.spec({"p": ["aaa", "bb"]}, {"one": LENGTH})
    first = run(spec)
    assert run(spec) == first


def test_agreement_counts_votes_for_the_chosen_side(world: World) -> None:
    """Three lengths against one 'shorter is better': the panel sides with length."""
    shorter = {"kind": "rule", "shorter": True}
    spec = world.spec(
        {"p": ["a b c", "a b", "a"]}, {"one": LENGTH, "two": LENGTH, "three": LENGTH, "contrary": shorter}
    )
    rows = run(spec).summary["annotators"]
    agreement = {row["annotator"]: row["agrees_with_panel"] for row in rows}
    assert agreement == {"one": 1.0, "two": 1.0, "three": 1.0, "contrary": 0.0}
