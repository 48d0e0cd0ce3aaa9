"""Batches of votes, published as they come: a labeling pass that was killed asks nobody twice for what it has."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TypeVar

import pyarrow as pa

from storage.schemas import read_parquet, write_parquet
from storage.stage import Spec, has_part, mark_part
from tasks.labeling.annotators.protocol import Score, Vote

SCORE_BATCH = 4096  # responses
VOTE_BATCH = 256  # comparisons; a judge is asked twice for each

Asked = TypeVar("Asked")
Said = TypeVar("Said", Score, Vote)

_SCHEMAS: dict[type, pa.Schema] = {
    Score: pa.schema({"outcome": pa.string(), "value": pa.float64(), "raw": pa.string()}),
    Vote: pa.schema(
        {
            "outcome": pa.string(),
            "probability": pa.float64(),
            "order": pa.string(),
            "raw": pa.string(),
            "seconds": pa.float64(),
            "tokens": pa.int64(),
            "cost": pa.float64(),
        }
    ),
}


class Parts:
    """The published batches of one stage. `group` keeps the panels of one stage apart."""

    def __init__(self, spec: Spec, group: str) -> None:
        self._spec, self._group = spec, group

    def gather(
        self,
        annotator: int,
        kind: type[Said],
        asked: Sequence[Asked],
        vote: Callable[[Sequence[Asked]], list[Said]],
        done: Callable[[int], None],
    ) -> list[Said]:
        """What the panel's annotator number `annotator` says of `asked`: read where it was published, else asked now.

        `done` is called with how many have been answered.
        """
        size = SCORE_BATCH if kind is Score else VOTE_BATCH
        said: list[Said] = []
        for start in range(0, len(asked), size):
            batch = asked[start : start + size]
            path = self._spec.folder / f"part-{self._group}-{annotator:03d}-{start:08d}.parquet"
            if has_part(self._spec, path):
                said.extend(kind(**row) for row in read_parquet(path, _SCHEMAS[kind]).to_pylist())
            else:
                answers = vote(batch)
                if len(answers) != len(batch):
                    raise RuntimeError(f"annotator {annotator} answered {len(answers)} of {len(batch)} questions")
                write_parquet(path, pa.Table.from_pylist([asdict(each) for each in answers], schema=_SCHEMAS[kind]))
                mark_part(self._spec, path)
                said.extend(answers)
            done(len(said))
        return said


def remove_parts(spec: Spec) -> None:
    """Remove all parts: the stage is done, and they are in what it published."""
    for path in spec.folder.glob("part-*.parquet"):
        path.unlink(missing_ok=True)
    for path in spec.folder.glob(".part-*.part.json"):
        path.unlink(missing_ok=True)
