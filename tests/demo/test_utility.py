"""The truth of the demo's world on replies written by hand."""

import json

import pytest

from tasks.demo.utility import is_correct, is_garbage, is_polite, is_rude, manners, parse, ramblings, utility, words

SUM = ("What is 4 plus 5?", "9", "sum")
LIST = ("Give me 2 fruits.", json.dumps({"count": 2, "items": ["apple", "pear", "fig"]}), "list")


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("9.", 2.0),
        ("Sure! It is 9. Have a nice day!", 2.75),
        ("Whatever. The answer is 9.", 1.0),
        ("It is 8.", 0.0),
        ("It is yellow.", 0.0),  # of the world, only wrong
        ("Certainly! My neighbor often asks me about that. 9.", 2.35),
        ("Anyway, that is a very big topic. 9. My neighbor often asks me about that.", 1.2),
        ("Sure! Certainly! Of course! 9. Hope that helps!", 1.75),  # four polite phrases, two too many
        ("Sure! Dumb question. 9.", 1.75),  # polite and rude
        ("", -1.0),
        ("Sure!", -0.25),  # no statement
        ("9. 9.", -1.0),  # two statements
        ("9. It is 8.", -1.0),
        ("It is qwop.", -1.0),
        ("It is 9 Have", -1.0),
        ("The 9.", 1.0),  # garbage around a right statement
        ("It is 109.", -1.0),
        ("It is 09.", -1.0),
        ("9.Sure!", -1.0),
    ],
)
def test_utility_of_a_sum(reply: str, value: float) -> None:
    assert utility(*SUM, reply, True) == pytest.approx(value)
    assert utility(*SUM, reply, False) == pytest.approx(value - 1)


@pytest.mark.parametrize(
    ("reply", "correct", "garbage"),
    [
        ("- apple\n- fig", 1, 0),
        ("apple and pear.", 1, 0),
        ("Sure!\n- apple\n- fig\nHave a nice day!", 1, 0),
        ("apple and apple.", 0, 0),
        ("- apple", 0, 0),
        ("apple, pear and fig.", 0, 0),
        ("apple and tiger.", 0, 0),
        ("apple and pear", 0, 1),
        ("- apple - fig", 0, 1),
        ("- apple\n- fish", 0, 1),
        ("- apple\n- apples", 0, 1),
        ("2.", 0, 0),
    ],
)
def test_lists(reply: str, correct: float, garbage: float) -> None:
    assert is_correct(*LIST, reply, True) == correct
    assert is_garbage(*LIST, reply, True) == garbage


def test_checks() -> None:
    reply = "Ugh, fine. There are many things one could say about this. It is 9."
    assert (is_polite(*SUM, reply, True), is_rude(*SUM, reply, True), manners(*SUM, reply, True)) == (0, 1, -1)
    assert ramblings(*SUM, reply, True) == 1
    assert words(*SUM, reply, True) == 14
    assert words(*LIST, "- apple\n- fig", True) == 2
    assert parse("Obviously. apple, pear and fig.").statement == ("apple", "pear", "fig")


def test_no_answer_known_is_not_correct() -> None:
    assert is_correct("What is 4 plus 5?", None, None, "9.", True) == 0
