"""Scores and votes of the label stage as columns of pairs and responses, against counting by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import UserError
from storage.schemas import SCORES, VOTES, table, write_parquet
from tasks.training.groups import read_preferences
from tasks.training.supervision import Labelled, first_level, strength_shares, supervise
from tests.training.conftest import MakeSpec
from tests.training.preference_rows import preference_row, write_preferences
from tests.training.test_methods_train import score, vote

REPLIES = [[5, 6], [7, 8], [9, 10], [11, 12]]
ROWS = [
    preference_row("p", [3], REPLIES, 0, 1, 1.0),
    preference_row("p", [3], REPLIES, 0, 2, 3.0),
    preference_row("p", [3], REPLIES, 1, 2, 2.0),
]


def supervised(
    make_spec: MakeSpec, tmp_path: Path, objective: dict[str, Any], rows: Any = ROWS, **tables: Any
) -> Labelled:
    paths = {}
    for name, schema in (("scores", SCORES), ("votes", VOTES)):
        if name in tables:
            paths[name] = {1: tmp_path / f"{name}.parquet"}
            write_parquet(paths[name][1], table(tables[name], schema))
    spec = make_spec(objective=objective, rows=rows, **paths)
    return supervise(spec, read_preferences(spec.preferences.path).groups)


def test_rewards_are_means_of_those_that_scored_both(make_spec: MakeSpec, tmp_path: Path) -> None:
    scores = [score("p", 0, "a", 5.0), score("p", 1, "a", 3.0), score("p", 2, "a", 2.0),
              score("p", 0, "b", 10.0), score("p", 1, "b", 20.0), score("p", 2, "b", None)]  # fmt: skip
    raw = {"name": "rebel", "standardise": False}
    (item,) = supervised(make_spec, tmp_path, raw, scores=scores).items
    assert item.pairs["reward"].tolist() == [(2 - 10) / 2, 3.0, 1.0]
    (item,) = supervised(make_spec, tmp_path, {**raw, "score_annotators": ["a"]}, scores=scores).items
    assert item.pairs["reward"].tolist() == [2.0, 3.0, 1.0]
    (item,) = supervised(make_spec, tmp_path, {"name": "rebel", "score_annotators": ["a"]}, scores=scores).items
    deviation = np.std([5.0, 3.0, 2.0])
    np.testing.assert_allclose(item.pairs["reward"], np.array([2.0, 3.0, 1.0]) / deviation, rtol=1e-12)


def test_pairs_that_nobody_scored_are_left_out(make_spec: MakeSpec, tmp_path: Path) -> None:
    scores = [score("p", 0, "a", 5.0), score("p", 1, "a", 3.0), score("p", 2, "a", None)]
    labelled = supervised(make_spec, tmp_path, {"name": "rebel"}, scores=scores)
    assert labelled.unknown_pairs == 2
    assert [(pair.chosen, pair.rejected) for pair in labelled.items[0].group.pairs] == [(0, 1)]
    with pytest.raises(UserError, match="of no pair is known what objective rebel needs"):
        supervised(make_spec, tmp_path, {"name": "rebel"}, scores=[score("q", 0, "a", 5.0)])


def test_win_rates_count_every_comparison_and_the_response_itself(make_spec: MakeSpec, tmp_path: Path) -> None:
    """0 beat 1 twice of three; 2 and 0 tied; 3, in no pair, beat 0; failures are no votes."""
    votes = [vote("p", 0, 1, "a", "a"), vote("p", 0, 1, "b", "a"), vote("p", 1, 0, "c", "a"),
             vote("p", 2, 0, "a", "tie"), vote("p", 3, 0, "a", "a"), vote("p", 1, 2, "a", "error"),
             vote("p", 1, 2, "b", "b")]  # fmt: skip
    (item,) = supervised(make_spec, tmp_path, {"name": "sppo"}, votes=votes).items
    assert item.responses["win_rate"].tolist() == pytest.approx(
        [(0.5 + 2 / 3 + 1 / 2 + 0) / 4, (0.5 + 1 / 3 + 0) / 3, (0.5 + 1 / 2 + 1) / 3]
    )
    assert item.responses["mean_logit"].tolist() == pytest.approx(
        [(math.log(2.5 / 1.5) + 0 + math.log(0.5 / 1.5)) / 4, (math.log(1.5 / 2.5) + math.log(0.5 / 1.5)) / 3,
         math.log(1.5 / 0.5) / 3]
    )  # fmt: skip


def test_votes_by_annotator(make_spec: MakeSpec, tmp_path: Path) -> None:
    """For chosen, whichever was shown first; NaN where one did not decide. A pair without any is left out."""
    votes = [vote("p", 0, 1, "a", "a"), vote("p", 1, 0, "b", "a"), vote("p", 2, 0, "b", "tie"),
             vote("p", 2, 0, "a", "abstain"), vote("p", 1, 2, "a", "error")]  # fmt: skip
    labelled = supervised(make_spec, tmp_path, {"name": "lcpo"}, votes=votes)
    assert labelled.annotators == ("a", "b")
    assert labelled.unknown_pairs == 1
    np.testing.assert_array_equal(labelled.items[0].pairs["votes"], [[1.0, 0.0], [np.nan, 0.5]])


def test_shares_of_strengths(tmp_path: Path) -> None:
    """Targets that are gaps of strengths (3, 2, 0) give their softmax; unlinked responses have none."""
    (group,) = read_preferences(write_preferences(tmp_path / "p.parquet", ROWS)).groups
    powers = np.exp([3.0, 2.0, 0.0])
    np.testing.assert_allclose(strength_shares(group), powers / powers.sum(), rtol=1e-12)
    apart = [ROWS[0], preference_row("p", [3], REPLIES, 2, 3, 1.0)]
    (group,) = read_preferences(write_preferences(tmp_path / "q.parquet", apart)).groups
    assert np.isnan(strength_shares(group)).all()


def test_shares_of_scores(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The specification's numbers: scores 1, 0, .5, -.5 at temperature .5."""
    rows = [preference_row("p", [3], REPLIES, i, j, 1.0) for i, j in ((0, 1), (0, 2), (0, 3))]
    scores = [score("p", index, "a", value) for index, value in enumerate([1.0, 0.0, 0.5, -0.5])]
    objective = {"name": "adpo", "rewards": "scores", "standardise": False}
    (item,) = supervised(make_spec, tmp_path, objective, rows, scores=scores).items
    np.testing.assert_allclose(item.responses["share"], [0.78918752, 0.03560967, 0.16763863, 0.00756418], atol=1e-8)


def test_first_level(tmp_path: Path) -> None:
    (group,) = read_preferences(write_preferences(tmp_path / "p.parquet", ROWS)).groups
    assert first_level(group).tolist() == [1.0, 1.0, 0.0]


def test_rounds_are_told_apart(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Replay: the same prompt and response in two rounds, of which each has its own scores and votes."""
    again = [row | {"round": 2} for row in ROWS[:1]]
    paths: dict[str, dict[int, Path]] = {"scores": {}, "votes": {}}
    for number, gap in ((1, 1.0), (2, -4.0)):
        for name, schema, said in (
            ("scores", SCORES, [score("p", 0, "a", gap), score("p", 1, "a", 0.0)]),
            ("votes", VOTES, [vote("p", 0, 1, f"round {number}", "a" if gap > 0 else "b")]),
        ):
            paths[name][number] = tmp_path / f"{name}-{number}.parquet"
            write_parquet(paths[name][number], table(said, schema))
    spec = make_spec(objective={"name": "rebel", "standardise": False}, rows=[*ROWS[:1], *again], **paths)
    groups = read_preferences(spec.preferences.path).groups
    assert [item.pairs["reward"].tolist() for item in supervise(spec, groups).items] == [[1.0], [-4.0]]
    votes = supervise(make_spec("votes", objective={"name": "lcpo"}, **paths), groups)
    assert votes.annotators == ("round 1", "round 2")
    np.testing.assert_array_equal([item.pairs["votes"][0] for item in votes.items], [[1, np.nan], [np.nan, 0]])
    with pytest.raises(UserError, match="the votes of the label stage of round 2"):
        supervise(make_spec("one", objective={"name": "sppo"}, votes={1: paths["votes"][1]}), groups)
