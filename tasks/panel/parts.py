"""Batches of local annotators' answers, published as they are made: a killed labeling pass resumes from there."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import pyarrow as pa

from storage.schemas import read_parquet, write_parquet
from storage.stage import Spec, has_part, mark_part
from tasks.panel.annotators.protocol import LocalAnnotator, Question
from tasks.panel.answers import ANSWERS, as_table
from tasks.panel.batch import answers_of
from tasks.panel.scorer_pool import workers_of

BATCH = 4096  # questions


class Parts:
    """The published batches of one stage. `group` separates the panels of a stage that has several."""

    def __init__(self, spec: Spec, group: str) -> None:
        self._spec, self._group = spec, group

    def gather(
        self,
        number: int,
        annotator: LocalAnnotator,
        questions: Sequence[Question],
        done: Callable[[int], None],
        stopped: Event,
    ) -> pa.Table:
        """The answers of the panel's annotator `number` to `questions`, as rows of answers.ANSWERS.

        Published batches are read; the others are voted on and published.

        `done` is called with the number of questions answered so far. Once `stopped` is set, no further batch starts.
        """
        answered, lock = 0, Lock()

        def answer(start: int) -> pa.Table:
            nonlocal answered
            if stopped.is_set():
                return as_table(annotator.answer_type, [])
            rows = self._batch(number, annotator, questions, start)
            with lock:
                answered += rows.num_rows
                done(answered)
            return rows

        starts, workers = range(0, len(questions), BATCH), workers_of(annotator)
        answers = [answer(start) for start in starts] if workers == 1 else _in_threads(answer, starts, workers)
        return pa.concat_tables([as_table(annotator.answer_type, []), *answers])

    def _batch(self, number: int, annotator: LocalAnnotator, questions: Sequence[Question], start: int) -> pa.Table:
        path = self._spec.folder / f"part-{self._group}-{number:03d}-{start:08d}.parquet"
        if has_part(self._spec, path):
            return read_parquet(path, ANSWERS[annotator.answer_type])
        batch = questions[start : start + BATCH]
        rows = as_table(annotator.answer_type, answers_of(annotator, batch))
        write_parquet(path, rows)
        mark_part(self._spec, path)
        return rows


def _in_threads(answer: Callable[[int], pa.Table], starts: Sequence[int], workers: int) -> list[pa.Table]:
    """`answer` of each start, `workers` at a time. After an error no further one begins."""
    with ThreadPoolExecutor(workers, thread_name_prefix="batch") as threads:
        batches = [threads.submit(answer, start) for start in starts]
        try:
            return [batch.result() for batch in batches]
        except BaseException:
            for batch in batches:
                batch.cancel()
            raise


def remove_parts(spec: Spec) -> None:
    """Remove all batches: the stage is finished, and its published files contain them."""
    for path in spec.folder.glob("part-*.parquet"):
        path.unlink(missing_ok=True)
    for path in spec.folder.glob(".part-*.part.json"):
        path.unlink(missing_ok=True)
