"""Several copies of an annotator that scores with a model, each in a process of its own, which share whole batches.

What a response is scored beside does not depend on how many copies there are, so any number of them gives the same
scores. Where the processes run is the matter of `Workers`: on this machine (tasks/panel/scorer_processes.py) or on a
cluster (tasks/cluster/scorers.py). Not run on GPUs.
"""

import logging
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Literal, Protocol

from storage.errors import UserError
from tasks.panel.annotators.protocol import LocalAnnotator, Response, Score, is_remote
from tasks.panel.annotators.settings import ScoresWithModel

log = logging.getLogger("irepo")

_DEATHS = 2  # of workers, after which a batch ends the stage


class WorkerDied(Exception):
    """A worker's process is gone; the message says how it ended."""


class Worker(Protocol):
    """A process that has opened the annotator. It is used by one thread at a time."""

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Questions on which the annotator fails are errors, unless it fails on all of them. Raises WorkerDied."""

    def end(self) -> None:
        """End the process, alive or not."""


class Workers(Protocol):
    """Where the workers of one annotator run."""

    def start(self, number: int) -> Worker:
        """Start worker `number`, or start it again after its end. Threads may start different ones at a time.

        Raises WorkerDied, and UserError where there is no place for it.
        """

    def close(self) -> None:
        """Free what the workers shared. They have ended."""


#: Opens the workers of an annotator: by its name, its settings and the seed of its draws. Nothing starts yet.
OpenWorkers = Callable[[str, ScoresWithModel, int], Workers]


class ScorerPool:
    """A local annotator whose `vote` may be called by `workers` threads at a time; each call is answered by one worker.

    A worker starts with its first batch. One that dies is started again and gets its batch again; a batch whose worker
    dies twice raises UserError. `close` ends all workers.
    """

    answer_type: Literal["scores"] = "scores"
    lane: Literal["model"] = "model"

    def __init__(self, name: str, settings: ScoresWithModel, *, seed: int, open_workers: OpenWorkers) -> None:
        """Raises UserError for an annotator that cannot be opened, and for workers that have no place."""
        self._places = open_workers(name, settings, seed)
        opened = settings.open(name, seed=seed)  # it reads no weights
        assert not is_remote(opened)
        self.name, self.tie_margin, self.workers = name, opened.tie_margin, settings.workers
        self._idle: SimpleQueue[int] = SimpleQueue()
        for number in range(settings.workers):
            self._idle.put(number)
        self._workers: dict[int, Worker] = {}

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        """Questions on which the annotator fails are errors, unless it fails on all of them."""
        number = self._idle.get()
        try:
            for death in range(_DEATHS):
                try:
                    return self._worker(number).score(batch)
                except WorkerDied as died:
                    self._end(number)
                    if death + 1 == _DEATHS:
                        raise self._died_again(died) from None
                    log.warning("worker %d of %s died; its batch is scored anew: %s", number, self.name, _first(died))
            raise AssertionError("unreachable")
        finally:
            self._idle.put(number)

    def close(self) -> None:
        for number in list(self._workers):
            self._end(number)
        self._places.close()

    def _worker(self, number: int) -> Worker:
        if number not in self._workers:
            self._workers[number] = self._places.start(number)
        return self._workers[number]

    def _end(self, number: int) -> None:
        worker = self._workers.pop(number, None)
        if worker is not None:
            worker.end()

    def _died_again(self, died: WorkerDied) -> UserError:
        return UserError(
            f"a worker of annotator {self.name!r} died twice with the same batch: {died}",
            where=f"annotators.{self.name}.workers={self.workers}",
            remedy="give it more memory: lower batch_tokens or workers, or end other work; then give the command again",
        )


def workers_of(annotator: LocalAnnotator) -> int:
    """How many batches an annotator answers at a time."""
    return annotator.workers if isinstance(annotator, ScorerPool) else 1


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
