"""Answers as columns: what an annotator said of many questions, without an object for each."""

from collections.abc import Sequence

import pyarrow as pa

from tasks.panel.annotators.protocol import Answer, Kind, Ranking, Score, Vote

#: What is said of how an answer came about.
SPENT = ("seconds", "tokens", "cost", "faults")

_SPENT = {"seconds": pa.float64(), "tokens": pa.int64(), "cost": pa.float64(), "faults": pa.string()}
_TYPES: dict[Kind, type[Answer]] = {"scores": Score, "pairs": Vote, "ranking": Ranking}

#: The columns of each kind of answer: fields of Score, Vote and Ranking.
ANSWERS: dict[Kind, pa.Schema] = {
    "scores": pa.schema({"outcome": pa.string(), "value": pa.float64(), "raw": pa.string()} | _SPENT),
    "pairs": pa.schema(
        {
            "outcome": pa.string(),
            "probability": pa.float64(),
            "order": pa.string(),
            "ab": pa.string(),
            "ba": pa.string(),
            "raw": pa.string(),
        }
        | _SPENT
    ),
    "ranking": pa.schema(
        {"outcome": pa.string(), "tiers": pa.list_(pa.list_(pa.int32())), "raw": pa.string()} | _SPENT
    ),
}


def as_table(kind: Kind, answers: Sequence[Answer]) -> pa.Table:
    """A row an answer, of ANSWERS[kind]."""
    schema = ANSWERS[kind]
    return pa.table({name: [getattr(each, name) for each in answers] for name in schema.names}, schema=schema)


def as_answers(kind: Kind, rows: pa.Table) -> list[Answer]:
    """The answers that `as_table` made `rows` of."""
    answers = []
    for row in rows.to_pylist():
        if "tiers" in row:
            row["tiers"] = tuple(tuple(tier) for tier in row["tiers"])
        answers.append(_TYPES[kind](**row))
    return answers
