"""Slates, and the votes that follow from rankings."""

import numpy as np
import pytest

from storage.arrays import Ints
from tasks.panel.annotators.protocol import Ranking, Slate
from tasks.panel.answers import as_table
from tasks.panel.questions import Questions
from tests.panel.scripted import Scripted, response

RESPONSES = [response(f"{prompt}{index}", prompt=prompt, index=index) for prompt in "pq" for index in range(4)]


def all_pairs(*slates: tuple[int, ...]) -> Ints:
    return np.array([(a, b) for slate in slates for a in slate for b in slate if a < b])


def slates_of(questions: Questions) -> list[Slate]:
    return [question for question in questions.of("ranking") if isinstance(question, Slate)]


def test_a_slate_holds_what_is_compared() -> None:
    questions = Questions(RESPONSES, all_pairs((0, 1, 3), (4, 5)))
    assert [[each.text for each in slate.responses] for slate in slates_of(questions)] == [
        ["p0", "p1", "p3"],
        ["q0", "q1"],
    ]
    across = Questions(RESPONSES, np.array([(0, 2), (0, 3), (1, 2)]))  # joined through others
    assert [len(slate.responses) for slate in slates_of(across)] == [4]


@pytest.mark.parametrize(
    ("tiers", "votes"),
    [
        (((0,), (1,), (2,)), ["a", "a", "a"]),  # on (0,1), (0,3), (1,3)
        (((2,), (0, 1)), ["tie", "b", "b"]),
        (((1,),), ["abstain", "abstain", "abstain"]),
        (((2,), (1,)), ["abstain", "abstain", "b"]),
    ],
)
def test_votes_follow_from_tiers(tiers: tuple[tuple[int, ...], ...], votes: list[str]) -> None:
    questions = Questions(RESPONSES, all_pairs((0, 1, 3)))
    cast = questions.votes_of_rankings([Ranking("ranking", tiers, raw="r", seconds=2.0, tokens=7, cost=0.5)])
    assert [vote.outcome for vote in cast] == votes
    assert [vote.tokens for vote in cast] == [7, None, None]  # a sum over votes is what was spent
    assert {vote.raw for vote in cast} == {"r"}


def test_failed_rankings_are_failed_votes() -> None:
    questions = Questions(RESPONSES, all_pairs((0, 1), (4, 5, 6)))
    cast = questions.votes_of_rankings([Ranking("error", raw="?"), Ranking("abstain")])
    assert [vote.outcome for vote in cast] == ["error", "abstain", "abstain", "abstain"]
    table = questions.panel_votes(
        Scripted(lambda _: Ranking("abstain"), answer_type="ranking"),
        as_table("ranking", [Ranking("error"), Ranking("abstain")]),
    )
    assert table.votes["kind"].to_pylist() == ["ranking"] * 4
