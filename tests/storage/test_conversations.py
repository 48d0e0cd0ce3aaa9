"""Rows to tune a policy on, as conversations; and questions of MT-Bench. Other values are refused by file and row."""

from pathlib import Path
from typing import Any

import pytest

from storage.conversations import Message, read_training_conversation
from storage.errors import UserError
from tasks.evaluation.mt_bench.questions import read_questions
from tests.storage.corpus import jsonl

ASK, YES = {"role": "user", "content": "Ask?"}, {"role": "assistant", "content": "yes"}
SYSTEM = {"role": "system", "content": "Be brief."}
ROWS: dict[str, tuple[dict[str, Any], list[Message]]] = {
    "messages": ({"messages": [SYSTEM, ASK, YES]}, [SYSTEM, ASK, YES]),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Ask?"}, {"from": "gpt", "value": "yes"}], "system": "Be brief."},
        [SYSTEM, ASK, YES],
    ),
    "prompt and completion": ({"prompt": "Ask?", "completion": "yes"}, [ASK, YES]),
    "prompt and completion as messages": ({"prompt": [SYSTEM, ASK], "completion": [YES]}, [SYSTEM, ASK, YES]),
    "Alpaca": (
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        [{"role": "user", "content": "Add.\n\n1 and 2"}, {"role": "assistant", "content": "3"}],
    ),
    "Alpaca without an input": ({"instruction": "Ask?", "input": "", "output": "yes"}, [ASK, YES]),
}


@pytest.mark.parametrize(("row", "messages"), ROWS.values(), ids=ROWS)
def test_a_row_is_a_conversation_to_train_on(row: dict[str, Any], messages: list[Message]) -> None:
    assert read_training_conversation(row, where="rows:1") == messages


@pytest.mark.parametrize(
    ("row", "refused"),
    [
        ({"messages": "text"}, "messages is text, not a list of messages"),
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, "content of message 2 of messages is null"),
        ({"messages": [ASK, YES | {"tool_calls": [{"id": "1"}]}]}, "message 2 of messages has tool_calls"),
        ({"prompt": 1, "completion": "yes"}, "prompt is a number"),
        ({"instruction": "Add.", "input": {"a": 1}, "output": "3"}, "input is an object"),
        ({"messages": [ASK, YES], "images": ["a.png"]}, "the row has images"),
        ({"text": "Ask? yes"}, "no conversation to train on; it has text"),
    ],
)
def test_other_rows_are_refused(row: dict[str, Any], refused: str) -> None:
    with pytest.raises(UserError, match=refused) as caught:
        read_training_conversation(row, where="rows:1")
    assert caught.value.where == "rows:1"


QUESTION = {"question_id": 81, "category": "math", "turns": ["One?", "Two?"]}


@pytest.mark.parametrize(
    ("question", "answer", "refused"),
    [
        (QUESTION | {"turns": ["One?", 2]}, None, "not a question of 2 turns"),
        (QUESTION | {"reference": "1"}, None, "the reference is not a list of texts"),
        (QUESTION, {"question_id": 81, "choices": []}, "not a reference answer"),
        (QUESTION, {"question_id": 81, "choices": [{"turns": ["1", None]}]}, "not a reference answer"),
    ],
)
def test_questions_that_are_not_text_are_refused(question: Any, answer: Any, refused: str, tmp_path: Path) -> None:
    path = jsonl(question)(tmp_path)
    (tmp_path / "answers").mkdir()
    references = jsonl(answer)(tmp_path / "answers") if answer else None
    with pytest.raises(UserError, match=refused) as caught:
        read_questions(path, references)
    assert caught.value.where.endswith(":1")


def test_reference_answers_are_read(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    references = jsonl({"question_id": 81, "choices": [{"turns": ["1", "2"]}]})(tmp_path / "answers")
    (question,) = read_questions(jsonl(QUESTION)(tmp_path), references)
    assert question.references == ["1", "2"]
