"""Answers as table columns: many answers of one annotator, without a Python object for each."""

from collections.abc import Sequence

import pyarrow as pa

from tasks.panel.annotators.protocol import Answer, AnswerType, Ranking, Score, Vote

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
