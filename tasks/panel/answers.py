"""Answers as table columns: many answers of one annotator, without a Python object for each."""

import math
from collections.abc import Sequence
from typing import get_args

import pyarrow as pa

from tasks.panel.annotators.protocol import UNANSWERED, Answer, AnswerType, Ranking, Score, Vote, VoteOutcome

#: Fields that say what an answer took.
SPENT = ("seconds", "tokens", "cost", "faults")

_SPENT_TYPES = {"seconds": pa.float64(), "tokens": pa.int64(), "cost": pa.float64(), "faults": pa.string()}
_CLASSES: dict[AnswerType, type[Answer]] = {"scores": Score, "pairs": Vote, "ranking": Ranking}

#: The columns of each answer type: the fields of Score, Vote and Ranking.
ANSWERS: dict[AnswerType, pa.Schema] = {
    "scores": pa.schema({"outcome": pa.string(), "value": pa.float64(), "raw": pa.string()} | _SPENT_TYPES),
    "pairs": pa.schema(
        {
            "outcome": pa.string(),
            "probability": pa.float64(),
            "order": pa.string(),
            "ab": pa.string(),
            "ba": pa.string(),
            "raw": pa.string(),
        }
        | _SPENT_TYPES
    ),
    "ranking": pa.schema(
        {"outcome": pa.string(), "tiers": pa.list_(pa.list_(pa.int32())), "raw": pa.string()} | _SPENT_TYPES
    ),
}


_OUTCOMES: dict[AnswerType, tuple[str, ...]] = {
    "scores": ("score", "abstain", "error"),
    "pairs": get_args(VoteOutcome),
    "ranking": ("ranking", "abstain", "error"),
}
_MOST_TOKENS = 10**12  # of one answer: sums fit into 64 bits


def check_answer(answer_type: AnswerType, answer: Answer) -> None:
    """Raises TypeError or ValueError for an answer that is not one of this type, or that no table can hold."""
    if not isinstance(answer, _CLASSES[answer_type]):
        raise TypeError(f"the answer is a {type(answer).__name__}, not a {_CLASSES[answer_type].__name__}")
    if answer.outcome not in _OUTCOMES[answer_type]:
        raise ValueError(f"the outcome {answer.outcome!r} is none of {', '.join(_OUTCOMES[answer_type])}")
    if answer.raw is not None:
        answer.raw.encode()
    if answer.tokens is not None and not (type(answer.tokens) is int and 0 <= answer.tokens <= _MOST_TOKENS):
        raise ValueError(f"tokens: {answer.tokens} is not a number of tokens")
    for name in ("seconds", "cost"):
        number = getattr(answer, name)
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name}: {number} is negative or not finite")
    if isinstance(answer, Score) and (answer.value is not None) != (answer.outcome == "score"):
        raise ValueError(f"the outcome is {answer.outcome!r} and the value {answer.value}")
    if isinstance(answer, Score) and answer.value is not None and not math.isfinite(answer.value):
        raise ValueError(f"the score is {answer.value}")
    if isinstance(answer, Vote) and answer.probability is not None and not 0 <= answer.probability <= 1:
        raise ValueError(f"the probability is {answer.probability}")
    if isinstance(answer, Ranking):
        positions = [position for tier in answer.tiers for position in tier]
        if len(set(positions)) < len(positions) or not all(type(position) is int for position in positions):
            raise ValueError(f"the tiers {answer.tiers} name a position twice")


def failure(answer_type: AnswerType, what: str, faults: Sequence[str], seconds: float | None) -> Answer:
    """The answer to a question that nobody answered: an error with the reason."""
    all_faults = ", ".join([*faults, UNANSWERED])
    what = what.encode(errors="replace").decode()
    if answer_type == "scores":
        return Score("error", raw=what, seconds=seconds, faults=all_faults)
    if answer_type == "pairs":
        return Vote("error", raw=what, seconds=seconds, faults=all_faults)
    return Ranking("error", raw=what, seconds=seconds, faults=all_faults)


def as_table(answer_type: AnswerType, answers: Sequence[Answer]) -> pa.Table:
    """One row per answer, with the schema ANSWERS[answer_type]."""
    schema = ANSWERS[answer_type]
    return pa.table({name: [getattr(answer, name) for answer in answers] for name in schema.names}, schema=schema)


def as_answers(answer_type: AnswerType, rows: pa.Table) -> list[Answer]:
    """The answers in `rows`, a table made by `as_table`."""
    answers = []
    for row in rows.to_pylist():
        if "tiers" in row:
            row["tiers"] = tuple(tuple(tier) for tier in row["tiers"])
        answers.append(_CLASSES[answer_type](**row))
    return answers
