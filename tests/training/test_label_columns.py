"""Columns of pairs and responses from scores and votes, against values computed by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import UserError
from storage.schemas import COUNTED_VOTES, SCORES, table, write_parquet
from tasks.training.groups import read_preferences
from tasks.training.label_columns import LabeledData, add_label_columns, first_level, strength_shares
from tests.training.conftest import MakeSpec
from tests.training.preference_rows import preference_row, write_preferences
from tests.training.test_methods_train import score, vote

REPLIES = [[5, 6], [7, 8], [9, 10], [11, 12]]
ROWS = [
    preference_row("p", [3], REPLIES, 0, 1, 1.0),
    preference_row("p", [3], REPLIES, 0, 2, 3.0),
    preference_row("p", [3], REPLIES, 1, 2, 2.0),
]


def label(
    make_spec: MakeSpec,
    tmp_path: Path,
    objective: dict[str, Any],
    rows: list[dict[str, Any]] = ROWS,
    **tables: list[dict[str, Any]],
) -> LabeledData:
    paths: dict[str, dict[int, Path]] = {}
    for name, schema in (("scores", SCORES), ("votes", COUNTED_VOTES)):
        if name in tables:
            paths[name] = {1: tmp_path / f"{name}.parquet"}
            write_parquet(paths[name][1], table(tables[name], schema))
    spec = make_spec(objective=objective, rows=rows, **paths)
    return add_label_columns(spec, read_preferences(spec.preferences.path).groups)


def test_reward_is_the_mean_over_annotators_that_scored_both(make_spec: MakeSpec, tmp_path: Path) -> None:
    scores = [score("p", 0, "a", 5.0), score("p", 1, "a", 3.0), score("p", 2, "a", 2.0),
              score("p", 0, "b", 10.0), score("p", 1, "b", 20.0), score("p", 2, "b", None)]  # fmt: skip
    raw = {"name": "rebel", "standardise": False}
    (group,) = label(make_spec, tmp_path, raw, scores=scores).groups
    assert group.pairs["reward"].tolist() == [(2 - 10) / 2, 3.0, 1.0]
    (group,) = label(make_spec, tmp_path, {**raw, "score_annotators": ["a"]}, scores=scores).groups
    assert group.pairs["reward"].tolist() == [2.0, 3.0, 1.0]
    (group,) = label(make_spec, tmp_path, {"name": "rebel", "score_annotators": ["a"]}, scores=scores).groups
    deviation = np.std([5.0, 3.0, 2.0])
    np.testing.assert_allclose(group.pairs["reward"], np.array([2.0, 3.0, 1.0]) / deviation, rtol=1e-12)


def test_pairs_without_scores_are_skipped(make_spec: MakeSpec, tmp_path: Path) -> None:
    scores = [score("p", 0, "a", 5.0), score("p", 1, "a", 3.0), score("p", 2, "a", None)]
    labeled = label(make_spec, tmp_path, {"name": "rebel"}, scores=scores)
    assert labeled.unknown_pairs == 2
    assert [(pair.chosen, pair.rejected) for pair in labeled.groups[0].group.pairs] == [(0, 1)]
    with pytest.raises(UserError, match="no pair has all the votes, scores or errors of targets that"):
        label(make_spec, tmp_path, {"name": "rebel"}, scores=[score("q", 0, "a", 5.0)])


def test_win_rates_average_over_opponents_and_the_response_itself(make_spec: MakeSpec, tmp_path: Path) -> None:
    """0 beats 1 in two of three votes, 2 and 0 tie, and 3, which is in no pair, beats 0."""
    votes = [vote("p", 0, 1, "a", "a"), vote("p", 0, 1, "b", "a"), vote("p", 1, 0, "c", "a"),
             vote("p", 2, 0, "a", "tie"), vote("p", 3, 0, "a", "a"), vote("p", 1, 2, "b", "b")]  # fmt: skip
    (group,) = label(make_spec, tmp_path, {"name": "sppo"}, votes=votes).groups
    assert group.responses["win_rate"].tolist() == pytest.approx(
        [(0.5 + 2 / 3 + 1 / 2 + 0) / 4, (0.5 + 1 / 3 + 0) / 3, (0.5 + 1 / 2 + 1) / 3]
    )
    assert group.responses["mean_logit"].tolist() == pytest.approx(
        [(math.log(2.5 / 1.5) + 0 + math.log(0.5 / 1.5)) / 4, (math.log(1.5 / 2.5) + math.log(0.5 / 1.5)) / 3,
         math.log(1.5 / 0.5) / 3]
    )  # fmt: skip


def test_votes_have_one_column_per_annotator(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Votes are for chosen in either order; NaN for an undecided annotator. A pair without votes is skipped."""
    votes = [vote("p", 0, 1, "a", "a"), vote("p", 1, 0, "b", "a"), vote("p", 2, 0, "b", "tie")]  # fmt: skip
    labeled = label(make_spec, tmp_path, {"name": "lcpo"}, votes=votes)
    assert labeled.annotators == ("a", "b")
    assert labeled.unknown_pairs == 1
    np.testing.assert_array_equal(labeled.groups[0].pairs["votes"], [[1.0, 0.0], [np.nan, 0.5]])
    np.testing.assert_array_equal(labeled.groups[0].pairs["vote_weights"], [[1.0, 1.0], [0.0, 1.0]])


def test_votes_count_with_their_weights(make_spec: MakeSpec, tmp_path: Path) -> None:
    """An annotator of weight 3 says 0 over 1, one of weight 1 the opposite; the weights are on LCPO's records."""
    votes = [vote("p", 0, 1, "a", "a", 3.0), vote("p", 0, 1, "b", "b")]
    (group,) = label(make_spec, tmp_path, {"name": "sppo"}, ROWS[:1], votes=votes).groups
    assert group.responses["win_rate"][:2].tolist() == [(0.5 + 3 / 4) / 2, (0.5 + 1 / 4) / 2]
    assert group.responses["mean_logit"][0] == pytest.approx(math.log(3.5 / 1.5) / 2)
    (group,) = label(make_spec, tmp_path, {"name": "lcpo"}, ROWS[:1], votes=votes).groups
    np.testing.assert_array_equal(group.pairs["votes"], [[1.0, 0.0]])
    np.testing.assert_array_equal(group.pairs["vote_weights"], [[3.0, 1.0]])


def test_shares_from_targets(tmp_path: Path) -> None:
    """Targets that are differences of strengths (3, 2, 0) give their softmax; unconnected responses give NaN."""
    (group,) = read_preferences(write_preferences(tmp_path / "p.parquet", ROWS)).groups
    exponentials = np.exp([3.0, 2.0, 0.0])
    np.testing.assert_allclose(strength_shares(group), exponentials / exponentials.sum(), rtol=1e-12)
    apart = [ROWS[0], preference_row("p", [3], REPLIES, 2, 3, 1.0)]
    (group,) = read_preferences(write_preferences(tmp_path / "q.parquet", apart)).groups
    assert np.isnan(strength_shares(group)).all()


def test_shares_from_scores(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Test vector of the specification: scores 1, 0, 0.5, -0.5 at temperature 0.5."""
    rows = [preference_row("p", [3], REPLIES, i, j, 1.0) for i, j in ((0, 1), (0, 2), (0, 3))]
    scores = [score("p", index, "a", value) for index, value in enumerate([1.0, 0.0, 0.5, -0.5])]
    objective = {"name": "adpo", "rewards": "scores", "standardise": False}
    (group,) = label(make_spec, tmp_path, objective, rows, scores=scores).groups
    np.testing.assert_allclose(group.responses["share"], [0.78918752, 0.03560967, 0.16763863, 0.00756418], atol=1e-8)


def test_first_level_marks_pairs_whose_chosen_is_unbeaten(tmp_path: Path) -> None:
    (group,) = read_preferences(write_preferences(tmp_path / "p.parquet", ROWS)).groups
    assert first_level(group).tolist() == [1.0, 1.0, 0.0]


def test_rounds_keep_their_own_scores_and_votes(make_spec: MakeSpec, tmp_path: Path) -> None:
    """With replay, two rounds hold the same prompt and response indices."""
    again = [row | {"round": 2} for row in ROWS[:1]]
    paths: dict[str, dict[int, Path]] = {"scores": {}, "votes": {}}
    for number, difference in ((1, 1.0), (2, -4.0)):
        for name, schema, table_rows in (
            ("scores", SCORES, [score("p", 0, "a", difference), score("p", 1, "a", 0.0)]),
            ("votes", COUNTED_VOTES, [vote("p", 0, 1, f"round {number}", "a" if difference > 0 else "b")]),
        ):
            paths[name][number] = tmp_path / f"{name}-{number}.parquet"
            write_parquet(paths[name][number], table(table_rows, schema))
    spec = make_spec(objective={"name": "rebel", "standardise": False}, rows=[*ROWS[:1], *again], **paths)
    groups = read_preferences(spec.preferences.path).groups
    rewards = [labeled.pairs["reward"].tolist() for labeled in add_label_columns(spec, groups).groups]
    assert rewards == [[1.0], [-4.0]]
    votes = add_label_columns(make_spec("votes", objective={"name": "lcpo"}, **paths), groups)
    assert votes.annotators == ("round 1", "round 2")
    np.testing.assert_array_equal([labeled.pairs["votes"][0] for labeled in votes.groups], [[1, np.nan], [np.nan, 0]])
    with pytest.raises(UserError, match="the votes of the label stage of round 2"):
        add_label_columns(make_spec("one", objective={"name": "sppo"}, votes={1: paths["votes"][1]}), groups)
