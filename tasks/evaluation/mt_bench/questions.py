"""The questions of MT-Bench: read from FastChat's files, checked, and written as messages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from storage.errors import UserError
from storage.rows import Row, read_rows

TURNS = 2
#: Categories whose answers are graded beside a reference answer.
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})


@dataclass(frozen=True)
class Question:
    """One question. turns: [2]. references: an answer for each turn, [2]; None when there are none."""

    question_id: str
    category: str
    turns: Sequence[str]
    references: Sequence[str] | None


def read_questions(path: Path, references: Path | None = None) -> list[Question]:
    """The questions of a file. Reference answers in `references` replace those that a question has itself.

    Raises UserError, with file and line, for a row that is not a question of two turns, and for a file without any.
    """
    answers: dict[str, Sequence[str]] = {}
    if references is not None:
        answers = {str(row.get("question_id")): _reference(row, where) for where, row in read_rows(references)}
    questions = []
    for where, row in read_rows(path):
        turns = row.get("turns")
        if not _are_texts(turns) or len(turns) != TURNS or "question_id" not in row:
            raise UserError(
                f"this is not a question of {TURNS} turns",
                where=where,
                remedy='write {"question_id": 81, "category": "writing", "turns": ["...", "..."]}',
            )
        name = str(row["question_id"])
        own = answers.get(name) or row.get("reference") or None
        if own is not None and not _are_texts(own):
            raise UserError("the reference is not a list of texts", where=where, remedy="write one text for each turn")
        questions.append(Question(name, str(row.get("category", "general")), turns, own))
    if not questions:
        raise UserError("the file has no questions", where=str(path), remedy="give a JSONL file with one a line")
    return questions


def _reference(row: Row, where: str) -> Sequence[str]:
    """The answer in a row of FastChat's reference answers: choices[0].turns."""
    choices = row.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    turns = first.get("turns") if isinstance(first, dict) else None
    if not _are_texts(turns):
        raise UserError(
            "the row is not a reference answer",
            where=where,
            remedy='write {"question_id": 81, "choices": [{"turns": ["...", "..."]}]}, as FastChat does',
        )
    return turns


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def check_references(questions: Iterable[Question]) -> None:
    """Raises UserError for questions of math, reasoning or coding without a reference answer for each turn."""
    for question in questions:
        if question.category in WITH_REFERENCE and len(question.references or ()) < TURNS:
            raise UserError(
                f"question {question.question_id} is about {question.category} and has no reference answers",
                where="mt_bench.questions",
                remedy="set mt_bench.references=<file>, or add `reference` to the question",
            )


def conversation(turns: Sequence[str], replies: Sequence[str], turn: int) -> list[dict[str, str]]:
    """The messages before the reply to `turn` (0 or 1), with the earlier replies."""
    messages = []
    for earlier in range(turn):
        messages.append({"role": "user", "content": turns[earlier]})
        messages.append({"role": "assistant", "content": replies[earlier]})
    return [*messages, {"role": "user", "content": turns[turn]}]
