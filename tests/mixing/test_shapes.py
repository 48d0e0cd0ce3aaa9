"""Rows of public preference sets become pairs: what is preferred, how surely, and what is refused by row."""

import math
from typing import Any

import pytest

from storage.errors import UserError
from tasks.mixing.shapes.pair import OfflinePair, Reading
from tasks.mixing.shapes.read import pairs_of

Row = dict[str, Any]
READING = Reading("data", p_hat=0.9, score_fields=("score_chosen", "score_rejected"), response_score="helpfulness")
ASK = [{"role": "user", "content": "Ask?"}]


def read(*rows: Row, reading: Reading = READING) -> list[OfflinePair]:
    return list(pairs_of([(f"set.jsonl:{number}", row) for number, row in enumerate(rows, 1)], reading))


def sides(pair: OfflinePair) -> tuple[list[dict[str, str]], str, str, float]:
    return pair.prompt, pair.chosen, pair.rejected, round(pair.p_hat, 6)


def sigmoid(value: float) -> float:
    return round(1 / (1 + math.exp(-value)), 6)


def test_scores_of_ultrafeedback_say_how_surely() -> None:
    row = {"prompt": "Ask?", "chosen": "yes", "rejected": "no", "score_chosen": 8.5, "score_rejected": 7.0}
    equal = row | {"score_rejected": 8.5}
    without = {name: value for name, value in row.items() if not name.startswith("score")}
    named = row | {"p_hat": 0.7}
    found = read(row, equal, without, named)
    assert [(round(pair.p_hat, 6), pair.source) for pair in found] == [
        (sigmoid(1.5), "scores"), (0.5, "scores"), (0.9, "setting"), (0.7, "row"),
    ]  # fmt: skip
    unread = Reading("data", p_hat=0.9)
    assert [pair.p_hat for pair in read(row, equal, reading=unread)] == [0.9, 0.9]


def test_scores_that_prefer_the_rejected_response_are_refused() -> None:
    row = {"prompt": "Ask?", "chosen": "yes", "rejected": "no", "score_chosen": 1, "score_rejected": 2.5}
    with pytest.raises(
        UserError, match=r"prefer the rejected response: score_chosen is 1, score_rejected is 2\.5"
    ) as e:
        read(row)
    assert e.value.where == "set.jsonl:1"
    assert "data.score_fields=[]" in e.value.remedy


def test_responses_of_helpsteer_become_pairs_of_their_prompt() -> None:
    rows = [
        {"prompt": "Ask?", "response": "fair", "helpfulness": 2, "verbosity": 1},
        {"prompt": "Ask?", "response": "good", "helpfulness": 4, "verbosity": 1},
        {"prompt": "Ask?", "response": "fair too", "helpfulness": 2, "verbosity": 1},
        {"prompt": "Other?", "response": "alone", "helpfulness": 4, "verbosity": 1},
    ]
    found = read(*rows)
    assert [sides(pair) for pair in found] == [
        (ASK, "good", "fair", sigmoid(2)),
        (ASK, "good", "fair too", sigmoid(2)),
    ]
    assert found[0].where == "set.jsonl:1 and 2"


def test_marked_turns_of_helpsteer_are_turns() -> None:
    text = "Ask?\n<extra_id_1>Assistant\nWell.\n<extra_id_1>User\nAnd now?"
    row = {"prompt": text, "response_1": "one", "response_2": "two", "preference_strength": -2}
    (pair,) = read(row)
    assert [turn["role"] for turn in pair.prompt] == ["user", "assistant", "user"]
    assert [turn["content"] for turn in pair.prompt] == ["Ask?", "Well.", "And now?"]
    assert (pair.chosen, pair.rejected, round(pair.p_hat, 6)) == ("one", "two", sigmoid(2))
    with pytest.raises(UserError, match="cannot be told apart"):
        read(row | {"prompt": text.replace("User", "Nobody")})


@pytest.mark.parametrize(("strength", "chosen", "p_hat"), [(3, "two", 3.0), (-1, "one", 1.0), (0, "one", 0.0)])
def test_strengths_of_helpsteer3(strength: int, chosen: str, p_hat: float) -> None:
    (pair,) = read({"context": ASK, "response1": "one", "response2": "two", "overall_preference": strength})
    assert (pair.prompt, pair.chosen, round(pair.p_hat, 6)) == (ASK, chosen, sigmoid(p_hat))


def test_transcripts_of_hh_rlhf() -> None:
    start = "\n\nHuman: First?\n\nAssistant: One.\n\nHuman: Ask?\n\nAssistant: "
    reading = Reading("data", p_hat=0.9, transcripts=True)
    (pair,) = read({"chosen": f"{start}yes", "rejected": f"{start}no"}, reading=reading)
    assert [turn["content"] for turn in pair.prompt] == ["First?", "One.", "Ask?"]
    assert (pair.chosen, pair.rejected) == ("yes", "no")
    with pytest.raises(UserError, match="do not start with the same turns"):
        read({"chosen": f"{start}yes", "rejected": start.replace("One", "Two") + "no"}, reading=reading)
    with pytest.raises(UserError, match="rejected does not end with a turn of Human and one of Assistant"):
        read({"chosen": f"{start}yes", "rejected": "\n\nHuman: Ask?"}, reading=reading)
    with pytest.raises(UserError, match="hold the turns of 'Human:'") as refusal:
        read({"chosen": f"{start}yes", "rejected": f"{start}no"})
    assert "data.transcripts=true" in str(refusal.value)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "Ask?", "response": "yes"}, "no score of it in helpfulness"),
        ({"prompt": "Ask?", "response": "yes", "helpfulness": "high"}, "helpfulness is text, not a finite number"),
        ({"prompt": "Ask?", "response_1": "a", "response_2": "b"}, "no two responses with a strength"),
        ({"instruction": "Ask?", "context": "Look.", "chosen": "a", "rejected": "b"}, "the row has context beside"),
        ({"text": "Ask?"}, r"no chosen and no rejected.*it has text"),
        ({"prompt": "Ask?", "chosen": "a", "rejected": "b", "p_hat": 1.0}, "p_hat is 1.0"),
    ],
)
def test_other_rows_are_refused_by_row(row: Row, what: str) -> None:
    good = {"prompt": "Ask?", "chosen": "yes", "rejected": "no"}
    with pytest.raises(UserError, match=what) as caught:
        read(good, row)
    assert caught.value.where == "set.jsonl:2"
    assert caught.value.remedy
