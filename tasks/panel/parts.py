"""Batches of local annotators' answers, published as they are made: a killed labeling pass resumes from there."""

import logging
from collections.abc import Callable, Sequence
from threading import Event

import pyarrow as pa

from storage.errors import UserError
from storage.schemas import read_parquet, write_parquet
from storage.stage import Spec, has_part, mark_part
from tasks.panel.annotators.protocol import Answer, LocalAnnotator, Question
from tasks.panel.answers import ANSWERS, as_table, check_answer, failure

log = logging.getLogger("irepo")

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
        answers = [as_table(annotator.answer_type, [])]
        for start in range(0, len(questions), BATCH):
            if stopped.is_set():
                break
            answers.append(self._batch(number, annotator, questions, start))
            done(min(start + BATCH, len(questions)))
        return pa.concat_tables(answers)

    def _batch(self, number: int, annotator: LocalAnnotator, questions: Sequence[Question], start: int) -> pa.Table:
        path = self._spec.folder / f"part-{self._group}-{number:03d}-{start:08d}.parquet"
        if has_part(self._spec, path):
            return read_parquet(path, ANSWERS[annotator.answer_type])
        batch = questions[start : start + BATCH]
        rows = as_table(annotator.answer_type, _votes(annotator, batch))
        write_parquet(path, rows)
        mark_part(self._spec, path)
        return rows


def _votes(annotator: LocalAnnotator, batch: Sequence[Question]) -> list[Answer]:
    """One answer per question. When a batch fails, each question is asked alone, and the ones that fail are errors.

    Raises what the annotator raises when it fails on every question, a UserError, and RuntimeError for a wrong number
    of answers.
    """
    try:
        return _checked(annotator, batch)
    except UserError:
        raise
    except Exception as error:
        if len(batch) == 1:
            raise
        log.warning("%s fails on a batch, and is asked question by question: %s", annotator.name, error, exc_info=True)
        first = error
    answers: list[Answer] = []
    failed = 0
    for question in batch:
        try:
            answers += _checked(annotator, [question])
        except UserError:
            raise
        except Exception as error:
            failed += 1
            what = f"{type(error).__name__}: {error}"
            answers.append(failure(annotator.answer_type, what, [], None))
    if failed == len(batch):
        raise first
    log.warning("%s: %d of %d questions fail", annotator.name, failed, len(batch))
    return answers


def _checked(annotator: LocalAnnotator, batch: Sequence[Question]) -> list[Answer]:
    answers = list(annotator.vote(batch))
    if len(answers) != len(batch):
        raise RuntimeError(f"{annotator.name} answered {len(answers)} of {len(batch)} questions")
    for answer in answers:
        check_answer(annotator.answer_type, answer)
    return answers


def remove_parts(spec: Spec) -> None:
    """Remove all batches: the stage is finished, and its published files contain them."""
    for path in spec.folder.glob("part-*.parquet"):
        path.unlink(missing_ok=True)
    for path in spec.folder.glob(".part-*.part.json"):
        path.unlink(missing_ok=True)
