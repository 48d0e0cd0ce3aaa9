"""Whole shards, dealt to workers: each takes new ones as it publishes others.

A shard's bytes depend on its prompts, seeds and engine, not on who samples it. So any number of workers publishes the
same bytes, as long as shards are sampled apart (engine.shards_in_flight=1), and a shard can be given to another worker.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any, Protocol, runtime_checkable

from storage.errors import UserError
from tasks.generation.engines import EngineDied, EngineError
from tasks.generation.shards import ShardJob, ShardReport, ShardSampler

log = logging.getLogger("irepo")

_DEATHS = 2  # of its engine, after which a shard ends the stage
_LOSSES = 4  # of its worker, after which a shard ends the stage
_GRACE = 30.0  # seconds for calls to end after an error
_FAILED_STARTS = 3  # of workers in a row, after which the stage ends


class WorkerLost(Exception):
    """A worker is gone, with the shards that it held: its process or its machine died."""


class NoPlace(WorkerLost):
    """There is no room for a worker now."""


class ShardWorker(Protocol):
    """One engine, wherever it is. At most one call is under way at a time."""

    name: str

    def start(self) -> "Future[int]":
        """Load the policy. The result: how many shards to hold at a time."""

    def advance(self, numbers: Sequence[int]) -> "Future[ShardReport]":
        """Take the shards `numbers` too; done when one of those it holds is published."""


@runtime_checkable
class Crew(Protocol):
    """Several engines that take whole shards. An Engine too."""

    def workers(self, job: ShardJob) -> Sequence[ShardWorker]:
        """Workers for the shards of a job, not started."""

    def replace(self, worker: ShardWorker) -> ShardWorker:
        """A new worker in place of one that is lost, not started."""

    def finish(self) -> None:
        """All shards are published: workers that are still starting need not."""

    def dismiss(self) -> None:
        """End all calls that are under way, after an error."""


class InlineWorker:
    """A worker in this thread: a call is done when it returns, and raises what it raises."""

    name = "0"

    def __init__(self, sampler: ShardSampler) -> None:
        self._sampler = sampler

    def start(self) -> "Future[int]":
        future: Future[int] = Future()
        future.set_result(self._sampler.load())
        return future

    def advance(self, numbers: Sequence[int]) -> "Future[ShardReport]":
        future: Future[ShardReport] = Future()
        future.set_result(self._sampler.advance(numbers))
        return future


class ThreadWorker:
    """A worker in a thread of `threads`."""

    def __init__(self, name: str, sampler: ShardSampler, threads: ThreadPoolExecutor) -> None:
        self.name = name
        self._sampler, self._threads = sampler, threads

    def start(self) -> "Future[int]":
        return self._threads.submit(self._sampler.load)

    def advance(self, numbers: Sequence[int]) -> "Future[ShardReport]":
        return self._threads.submit(self._sampler.advance, numbers)


_Call = Future[int] | Future[ShardReport]

#: Called for every shard that a worker has published.
Reported = Callable[[ShardReport, ShardWorker], None]


class Dealer:
    """Deals shards to workers until all are published. For one stage."""

    def __init__(
        self,
        shards: Sequence[int],
        workers: Sequence[ShardWorker],
        crew: Crew | None,
        *,
        done: "SimpleQueue[_Call] | None" = None,
    ) -> None:
        """done: where calls go when they are done; a simulation brings its own."""
        self._waiting = deque(shards)
        self._workers = list(workers)[: len(shards)]
        self._crew = crew
        self._left = len(shards)  # not yet published
        self._calls: dict[_Call, ShardWorker] = {}
        self._done: SimpleQueue[_Call] = SimpleQueue() if done is None else done
        self._held: dict[ShardWorker, set[int]] = {}  # of the workers that have started
        self._capacity: dict[ShardWorker, int] = {}
        self._deaths: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()
        self._failed_starts = 0

    def run(self, reported: Reported) -> None:
        """Raises what a worker raises; EngineError when an engine has died twice, or a worker often, with one shard."""
        try:
            for worker in self._workers:
                self._start(worker)
            while self._left:
                call = self._done.get()
                self._settle(call, self._calls.pop(call), reported)
            if self._crew is not None:
                self._crew.finish()
                self._await_calls(None)
        except BaseException:
            if self._crew is not None:
                self._crew.dismiss()
                self._await_calls(_GRACE)  # so that no shard is published once the stage has failed
            raise

    def _await_calls(self, timeout: float | None) -> None:
        calls: list[Future[Any]] = list(self._calls)
        wait(calls, timeout)

    @property
    def started(self) -> int:
        """Workers that have started."""
        return len(self._held)

    def _start(self, worker: ShardWorker) -> None:
        self._call(worker, worker.start())

    def _call(self, worker: ShardWorker, call: _Call) -> None:
        self._calls[call] = worker
        call.add_done_callback(self._done.put)

    def _settle(self, call: _Call, worker: ShardWorker, reported: Reported) -> None:
        try:
            result = call.result()
        except EngineDied as died:
            self._engine_died(worker, died)
        except WorkerLost as lost:
            self._lost(worker, lost)
        else:
            if isinstance(result, ShardReport):
                self._held[worker].remove(result.number)
                self._left -= 1
                reported(result, worker)
            else:
                self._held[worker], self._capacity[worker], self._failed_starts = set(), result, 0
            self._give(worker)

    def _give(self, worker: ShardWorker) -> None:
        """Shards up to the worker's capacity; one that gets none and holds none waits."""
        held = self._held[worker]
        room = min(self._capacity[worker] - len(held), len(self._waiting))
        numbers = [self._waiting.popleft() for _ in range(room)]
        held.update(numbers)
        if held:
            self._call(worker, worker.advance(numbers))

    def _take_back(self, worker: ShardWorker, counter: "Counter[int]") -> set[int]:
        """Shards that a worker held wait again, first of all."""
        held = self._held.pop(worker, set())
        counter.update(held)
        self._waiting.extendleft(sorted(held, reverse=True))
        return held

    def _wake(self) -> None:
        """Give waiting shards to workers that have nothing to do."""
        busy = set(self._calls.values())
        for worker in [worker for worker in self._held if worker not in busy]:
            self._give(worker)

    def _engine_died(self, worker: ShardWorker, died: EngineDied) -> None:
        held = self._take_back(worker, self._deaths)
        self._failed_starts += not held
        twice = sorted(number for number in held if self._deaths[number] >= _DEATHS)
        if twice or self._failed_starts >= _FAILED_STARTS:
            what = f"with shard {twice[0]}" if twice else "while starting"
            raise EngineError(f"the engine of worker {worker.name} died again {what}: {died}") from None
        log.warning("the engine of worker %s died; its shards are sampled anew: %s", worker.name, _first_line(died))
        self._start(worker)
        self._wake()

    def _lost(self, worker: ShardWorker, lost: WorkerLost) -> None:
        assert self._crew is not None
        held = self._take_back(worker, self._losses)
        self._workers.remove(worker)
        if isinstance(lost, NoPlace):
            if not self._workers:
                raise UserError(
                    f"no worker has a place on the cluster any more: {lost}",
                    where="engine.workers",
                    remedy="add machines to the cluster, or end other work on it; then give the same command again",
                )
            log.warning("worker %s has no place on the cluster; %d go on", worker.name, len(self._workers))
            self._wake()
            return
        self._failed_starts += not held
        often = [number for number in held if self._losses[number] >= _LOSSES]
        if often or self._failed_starts >= _FAILED_STARTS:
            what = f"with shard {often[0]}" if often else "while starting"
            raise EngineError(f"worker {worker.name} was lost again {what}: {lost}")
        log.warning("worker %s is lost; its shards are sampled anew: %s", worker.name, _first_line(lost))
        new = self._crew.replace(worker)
        self._workers.append(new)
        self._start(new)
        self._wake()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
