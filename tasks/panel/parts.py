"""Batches of local annotators' answers, published as they come: a labeling pass that was killed goes on from there."""

from collections.abc import Callable, Sequence
from threading import Event

import pyarrow as pa

from storage.schemas import read_parquet, write_parquet
from storage.stage import Spec, has_part, mark_part
from tasks.panel.annotators.protocol import Local, Question
from tasks.panel.answers import ANSWERS, as_table

BATCH = 4096  # questions


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
    ) -> pa.Table:
        """What the panel's annotator `number` says of `asked`, as rows of answers.ANSWERS: read where it was published,
        else asked now.

        `done` is called with how many have been answered; when `stopped` is set, no further batch is begun.
        """
        said = [as_table(annotator.kind, [])]
        for start in range(0, len(asked), BATCH):
            if stopped.is_set():
                break
            said.append(self._batch(number, annotator, asked, start))
            done(min(start + BATCH, len(asked)))
        return pa.concat_tables(said)

    def _batch(self, number: int, annotator: Local, asked: Sequence[Question], start: int) -> pa.Table:
        path = self._spec.folder / f"part-{self._group}-{number:03d}-{start:08d}.parquet"
        if has_part(self._spec, path):
            return read_parquet(path, ANSWERS[annotator.kind])
        batch = asked[start : start + BATCH]
        answers = annotator.vote(batch)
        if len(answers) != len(batch):
            raise RuntimeError(f"{annotator.name} answered {len(answers)} of {len(batch)} questions")
        rows = as_table(annotator.kind, answers)
        write_parquet(path, rows)
        mark_part(self._spec, path)
        return rows


def remove_parts(spec: Spec) -> None:
    """Remove all parts: the stage is done, and they are in what it published."""
    for path in spec.folder.glob("part-*.parquet"):
        path.unlink(missing_ok=True)
    for path in spec.folder.glob(".part-*.part.json"):
        path.unlink(missing_ok=True)
