"""Batches of local annotators' answers, published as they come: a labeling pass that was killed goes on from there."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from threading import Event
from typing import Any

import pyarrow as pa

from storage.schemas import read_parquet, write_parquet
from storage.stage import Spec, has_part, mark_part
from tasks.labeling.annotators.protocol import Answer, Kind, Local, Question, Ranking, Score, Vote

BATCH = 4096  # questions

_SPENT = {"seconds": pa.float64(), "tokens": pa.int64(), "cost": pa.float64(), "faults": pa.string()}
_SCHEMAS: dict[Kind, tuple[type[Answer], pa.Schema]] = {
    "scores": (Score, pa.schema({"outcome": pa.string(), "value": pa.float64(), "raw": pa.string()} | _SPENT)),
    "pairs": (
        Vote,
        pa.schema(
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
    ),
    "ranking": (
        Ranking,
        pa.schema({"outcome": pa.string(), "tiers": pa.list_(pa.list_(pa.int32())), "raw": pa.string()} | _SPENT),
    ),
}


class Parts:
    """The published batches of one stage. `group` keeps the panels of one stage apart."""

    def __init__(self, spec: Spec, group: str) -> None:
        self._spec, self._group = spec, group

    def gather(
        self,
        number: int,
        annotator: Local,
        asked: Sequence[Question],
        done: Callable[[int], None],
        stopped: Event,
    ) -> list[Answer]:
        """What the panel's annotator `number` says of `asked`: read where it was published, else asked now.

        `done` is called with how many have been answered; when `stopped` is set, no further batch is begun.
        """
        said: list[Answer] = []
        for start in range(0, len(asked), BATCH):
            if stopped.is_set():
                break
            said.extend(self._batch(number, annotator, asked, start))
            done(len(said))
        return said

    def _batch(self, number: int, annotator: Local, asked: Sequence[Question], start: int) -> Sequence[Answer]:
        kind, schema = _SCHEMAS[annotator.kind]
        path = self._spec.folder / f"part-{self._group}-{number:03d}-{start:08d}.parquet"
        if has_part(self._spec, path):
            return [_answer(kind, row) for row in read_parquet(path, schema).to_pylist()]
        batch = asked[start : start + BATCH]
        answers = annotator.vote(batch)
        if len(answers) != len(batch):
            raise RuntimeError(f"{annotator.name} answered {len(answers)} of {len(batch)} questions")
        write_parquet(path, pa.Table.from_pylist([asdict(each) for each in answers], schema=schema))
        mark_part(self._spec, path)
        return answers


def _answer(kind: type[Answer], row: dict[str, Any]) -> Answer:
    if "tiers" in row:
        row["tiers"] = tuple(tuple(tier) for tier in row["tiers"])
    return kind(**row)


def remove_parts(spec: Spec) -> None:
    """Remove all parts: the stage is done, and they are in what it published."""
    for path in spec.folder.glob("part-*.parquet"):
        path.unlink(missing_ok=True)
    for path in spec.folder.glob(".part-*.part.json"):
        path.unlink(missing_ok=True)
