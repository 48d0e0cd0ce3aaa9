"""Ask a remote annotator all questions that have no stored answer, many at once."""

import errno
import logging
import time
from asyncio import TaskGroup
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from storage.errors import UserError
from tasks.panel.annotators.protocol import (
    Answer,
    Fault,
    Question,
    Refused,
    RemoteAnnotator,
)
from tasks.panel.answers import check_answer, failure
from tasks.panel.budget import Spending
from tasks.panel.chat import faults_met
from tasks.panel.circuit_breaker import CircuitBreaker, Permission
from tasks.panel.journal import Journal, content_key

log = logging.getLogger("irepo")

_PASSES = 2  # a question that faults is asked once more, after all others
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


@dataclass(frozen=True)
class Asked:
    """The answers to all questions, in order. `outage`: why the annotator was given up, None if it was not."""

    answers: list[Answer]
    outage: str | None


async def ask_all(
    annotator: RemoteAnnotator,
    questions: Sequence[Question],
    journal: Journal,
    spending: Spending,
    done: Callable[[int], None],
) -> Asked:
    """The annotator's answers. Equal questions are asked once; answers go to `journal` as they arrive.

    A question without an answer becomes an error that is not stored, so that the next attempt asks it again: one that
    faults twice, one that the annotator refuses or raises another exception for, and those that are not asked because
    the annotator is given up. It is given up by its circuit breaker, when none of the questions of this attempt reaches
    it, or when it has refused all of several questions. `done` is called with the number of questions answered. Raises
    UserError when the budget is spent, and what `connected` raises.
    """
    work = _Pass(annotator, questions, journal, spending, done)
    if work.left:
        async with annotator.connected():
            for number in range(_PASSES):
                if number:
                    work.ask_again()
                async with TaskGroup() as group:
                    for _ in range(min(annotator.limits.concurrency, len(work.left))):
                        group.create_task(work.work())
                if work.left and not work.given_up:
                    raise spending.error(work.answered, len(questions))
                if work.given_up or not work.unanswered:
                    break
    outage = work.outage()
    done(len(questions))
    return Asked(work.answers(), outage)


async def ask_once(annotator: RemoteAnnotator, question: Question, faults: list[str]) -> Answer:
    """The checked answer. faults: the kinds of earlier faults of this question; new ones are appended.

    Raises what `annotator.ask` raises, and ValueError for an answer that cannot be.
    """
    faults_met.set(faults)
    answer: Answer = await annotator.ask(question)
    check_answer(annotator.answer_type, answer)
    return replace(answer, faults=", ".join(faults) or None)


def is_disk_error(error: Exception) -> bool:
    """Whether an answer could not be stored."""
    return isinstance(error, OSError) and error.errno in _DISK


class _Pass:
    """The state of one attempt at all questions of one annotator."""

    def __init__(
        self,
        annotator: RemoteAnnotator,
        questions: Sequence[Question],
        journal: Journal,
        spending: Spending,
        done: Callable[[int], None],
    ) -> None:
        self._annotator, self._questions, self._journal, self._spending = annotator, questions, journal, spending
        self._done = done
        self._keys = [content_key(question) for question in questions]
        self._times = Counter(self._keys)
        self._position = {key: index for index, key in enumerate(self._keys)}
        self._answers = {key: journal.answers[key] for key in self._position if key in journal.answers}
        for answer in self._answers.values():
            spending.add(answer)
        self._breaker = CircuitBreaker(annotator.name, annotator.limits)
        self._reached = False  # whether anything but faults came from the annotator in this attempt
        self._last_fault = ""
        self._answered = bool(self._answers)  # whether there is any answer that is stored
        self._failed: dict[str, str] = {}  # questions that are errors of their own -> why
        self.unanswered: dict[str, list[str]] = {}  # questions that faulted -> the kinds of their faults
        self.left = deque(key for key in self._position if key not in self._answers)
        self.answered = sum(self._times[key] for key in self._answers)  # questions with an answer, or an error
        done(self.answered)

    @property
    def given_up(self) -> bool:
        return self._breaker.given_up

    def ask_again(self) -> None:
        """Put the questions that faulted among those that are left."""
        self.left.extend(self.unanswered)

    async def work(self) -> None:
        """Ask until no question is left, the annotator is given up or the budget is spent."""
        while self.left and not self._spending.exhausted:
            permission = await self._breaker.permission()
            if permission == "give up" or not self.left or self._spending.exhausted:
                self._breaker.let_go()
                return
            key = self.left.popleft()
            answer = await self._ask(key, permission)
            self._answers[key] = answer
            self._spending.add(answer)
            self._done(self.answered)

    async def _ask(self, key: str, permission: Permission) -> Answer:
        annotator, breaker = self._annotator, self._breaker
        faults = self.unanswered.pop(key, [])
        started = time.monotonic()
        try:
            answer = await ask_once(annotator, self._questions[self._position[key]], faults)
        except Fault as fault:
            self._last_fault = str(fault)
            self.unanswered[key] = faults
            breaker.fault(permission, self._last_fault, lasting=fault.lasting)
            return failure(annotator.answer_type, self._last_fault, faults, time.monotonic() - started)
        except UserError:
            raise
        except Exception as error:
            if is_disk_error(error):
                raise
            if isinstance(error, Refused):
                self._reached = True
                breaker.answered()
            else:
                breaker.unknown(permission)
            answer = self._error(key, error, faults, time.monotonic() - started)
        else:
            self._reached = self._answered = True
            breaker.answered()
            self._journal.add(key, answer)
        self.answered += self._times[key]
        return answer

    def _error(self, key: str, error: Exception, faults: Sequence[str], seconds: float) -> Answer:
        """The answer to a question that the annotator refuses, or fails on. The first failure is logged in full."""
        why = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        if not isinstance(error, Refused):
            log.warning("%s fails on a question: %s", self._annotator.name, why, exc_info=not self._failed)
        self._failed[key] = why
        return failure(self._annotator.answer_type, why, faults, seconds)

    def outage(self) -> str | None:
        """Why the annotator is given up; None if it is not. Says in the log what has no answer."""
        name, n = self._annotator.name, len(self._questions)
        last = next(reversed(self._failed.values()), "")
        if self._failed:
            log.warning("%s: %d of %d questions fail, the last one with: %s", name, len(self._failed), n, last)
        for key in self.left:
            why = f"not asked: given up after {self._last_fault}"
            self._answers[key] = failure(self._annotator.answer_type, why, [], None)
        if self.given_up or (self.unanswered and not self._reached):
            return self._last_fault
        if len(self._failed) > 1 and not self._answered:
            return f"it answers none of {n} questions, the last one with: {last}"
        if self.unanswered:
            log.warning("%s: %d of %d questions are unanswered: %s", name, len(self.unanswered), n, self._last_fault)
        return None

    def answers(self) -> list[Answer]:
        return [self._answers[key] for key in self._keys]
