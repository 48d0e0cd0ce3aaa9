"""A batch of questions, and an annotator that may fail on some of them."""

import logging
from collections.abc import Sequence

from storage.errors import UserError
from tasks.child_process import ChildFailed
from tasks.panel.annotators.protocol import Answer, LocalAnnotator, Question
from tasks.panel.answers import check_answer, failure

log = logging.getLogger("irepo")


def answers_of(annotator: LocalAnnotator, batch: Sequence[Question]) -> list[Answer]:
    """One answer per question. When a batch fails, each question is asked alone, and the ones that fail are errors.

    Raises what the annotator raises when it fails on every question (ChildFailed: in its process), a UserError, and
    RuntimeError for a wrong number of answers.
    """
    try:
        return _checked(annotator, batch)
    except (UserError, ChildFailed):
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
