"""Ask a remote annotator ahead of the labeling pass: questions arrive while other responses are still being sampled.

Answers go into the annotator's journal by content, where the pass finds them. What is not answered here is left to the
pass, with all that it does about faults and outages.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from storage.errors import UserError
from tasks.panel.annotators.protocol import Fault, Question, RemoteAnnotator
from tasks.panel.budget import Spending
from tasks.panel.journal import Journal, content_key
from tasks.panel.remote import ask_once, is_disk_error

log = logging.getLogger("irepo")


class AskAhead:
    """One annotator, asked batch after batch until `stop`. All methods belong to one event loop."""

    def __init__(self, annotator: RemoteAnnotator, journal: Journal, spending: Spending) -> None:
        """journal: open. spending: of the whole panel; once it is exhausted, nothing more is asked."""
        self._annotator, self._journal, self._spending = annotator, journal, spending
        self._batches: asyncio.Queue[Sequence[Question] | None] = asyncio.Queue()
        self._next = asyncio.Lock()
        self._stopped = False
        self._faults = 0  # in a row
        self.answered = 0  # questions
        self.answer_type = annotator.answer_type

    def add(self, batch: Sequence[Question]) -> None:
        """Ask these questions too. Those that are in the journal already count as spent and are not asked."""
        if not self._stopped:
            self._batches.put_nowait(batch)

    def stop(self) -> None:
        """Ask nothing more; questions that are under way are awaited."""
        self._stopped = True
        self._batches.put_nowait(None)

    async def run(self) -> None:
        """Ask until `stop`, or until the annotator fails, which is logged: the labeling pass asks it again."""
        questions = self._questions()
        try:
            async with self._annotator.connected(), asyncio.TaskGroup() as group:
                for _ in range(self._annotator.limits.concurrency):
                    group.create_task(self._work(questions))
        except Exception as error:
            self._give_up(first_of(error))

    async def _questions(self) -> AsyncIterator[tuple[str, Question]]:
        """Every question that has no stored answer, once."""
        seen: set[str] = set()
        while (batch := await self._batches.get()) is not None:
            for question in batch:
                if self._stopped:
                    return
                key = content_key(question)
                if key in seen:
                    continue
                seen.add(key)
                if key in self._journal.answers:
                    self._spending.add(self._journal.answers[key])
                else:
                    yield key, question

    async def _work(self, questions: AsyncIterator[tuple[str, Question]]) -> None:
        while not (self._stopped or self._spending.exhausted):
            async with self._next:
                item = await anext(questions, None)
            if item is None or self._stopped or self._spending.exhausted:
                return
            await self._ask(*item)

    async def _ask(self, key: str, question: Question) -> None:
        try:
            answer = await ask_once(self._annotator, question, [])
        except Fault as fault:
            self._faults += 1
            if fault.lasting or self._faults >= self._annotator.limits.faults:
                self._give_up(fault)
        except UserError:
            raise
        except Exception as error:  # of this question alone
            if is_disk_error(error):
                raise
            self._faults = 0
        else:
            self._faults = 0
            self._journal.add(key, answer)
            self._spending.add(answer)
            self.answered += 1

    def _give_up(self, error: BaseException) -> None:
        if not self._stopped:
            log.warning(
                "%s is not asked any more while responses are sampled; the label stage asks it again: %s",
                self._annotator.name,
                error,
            )
        self.stop()


def first_of(error: BaseException) -> BaseException:
    """The first failure of a group of tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
