"""Reasoning in the marks of different models is not read, and what servers leave after an answer is no text."""

import pytest

from tasks.evaluation.mt_bench.reading import read_grade
from tasks.panel.annotators.verdicts import Verdict, VerdictPlace, read_verdict
from tasks.panel.chat import Reply

MARKS = [
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<thoughts>", "</thoughts>"),
    ("<reflection>", "</reflection>"),
    ('<think duration="3">', "</think>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]


def verdict(text: str, place: VerdictPlace = "last_line") -> Verdict | None:
    return read_verdict(Reply(text, None, 0.0, None, None), place)


@pytest.mark.parametrize(("start", "end"), MARKS)
def test_a_verdict_in_reasoning_that_does_not_end_is_none(start: str, end: str) -> None:
    assert verdict(f"{start}Perhaps\n[[B]]") is None
    assert verdict(f"{start}B", "letter") is None
    assert read_grade(f"{start}Perhaps [[3]]") is None


@pytest.mark.parametrize(("start", "end"), MARKS)
def test_what_follows_the_reasoning_is_read(start: str, end: str) -> None:
    for text in (f"{start}Perhaps\n[[B]]{end}[[A]]", f"Perhaps\n[[B]]\n{end}\n[[A]]"):
        found = verdict(text)
        assert found is not None
        assert (found.letter, text[found.at]) == ("A", "A")
    assert read_grade(f"{start}Perhaps [[3]]{end} Grade: [[8]]") == 8


@pytest.mark.parametrize(
    "after", ["<|im_end|>", "<|eot_id|>\n", "</s>", "<end_of_turn>", "\u200b", "\ufeff", "\n\n---\n", "。", "!"]
)
def test_what_servers_leave_after_a_verdict_is_no_text(after: str) -> None:
    found = verdict(f"Because.\n[[A]]{after}")
    assert found is not None
    assert found.letter == "A"


@pytest.mark.parametrize("text", ["[[A]] <|im_end|> [[B]]", "[[A]]\n---\nBut [[B]]", "[[А]]", "---", "</s>"])
def test_other_text_is_no_verdict(text: str) -> None:
    assert verdict(text) is None


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("[[8]] out of [[10]]", 8),
        ("I give [[8]]/[[10]].", 8),
        ("Grade: [[7/10]]", 7),
        ("out of [[10]]", None),
        ("Grade: [[10]]", 10),
    ],
)
def test_the_scale_is_no_grade(text: str, grade: float | None) -> None:
    assert read_grade(text) == grade
