"""Simulated workers: each holds shards for a while and reports them. Time is simulated, the driver's work is real."""

import heapq
import random
import time
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue

from tasks.generation.dealing import Dealer, ShardWorker
from tasks.generation.shards import Counts, ShardReport

SHARD_PROMPTS = 64
RESPONSES, TOKENS = 4, 300  # of a prompt; of a response, on average
RATE = 4000.0  # tokens a second of a worker


@dataclass(frozen=True)
class Simulated:
    """What dealing all shards came to."""

    workers: int
    shards: int
    published: int  # different shards
    seconds: float  # simulated, until the last shard was published
    ideal: float  # simulated, if no worker ever waited
    cpu_seconds: float  # of the driver's thread, for dealing
    memory_mib: float  # most that dealing held, by tracemalloc


class Clock:
    """Simulated time: the next event is due when the driver has nothing left to do."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Future[ShardReport], ShardReport]] = []
        self._count = 0

    def later(self, seconds: float, report: ShardReport) -> "Future[ShardReport]":
        future: Future[ShardReport] = Future()
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, future, report))
        return future

    def advance(self) -> None:
        self.now, _, future, report = heapq.heappop(self._events)
        future.set_result(report)


class DrivenQueue(SimpleQueue[Future[int] | Future[ShardReport]]):
    """The dealer's queue of calls that are done. Whenever it is empty, simulated time goes on."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def get(self, block: bool = True, timeout: float | None = None) -> "Future[int] | Future[ShardReport]":
        while self.empty():
            self._clock.advance()
        return super().get(block, timeout)


class Simulation:
    """A worker that samples one shard at a time, each in a random time, and holds one more."""

    def __init__(self, name: str, clock: Clock, draw: random.Random) -> None:
        self.name = name
        self._clock, self._draw = clock, draw
        self._held: list[int] = []

    def start(self) -> "Future[int]":
        future: Future[int] = Future()
        future.set_result(2)
        return future

    def advance(self, numbers: Sequence[int]) -> "Future[ShardReport]":
        self._held += numbers
        tokens = int(SHARD_PROMPTS * RESPONSES * TOKENS * self._draw.lognormvariate(-0.02, 0.2))
        report = ShardReport(self._held.pop(0), Counts(SHARD_PROMPTS * RESPONSES, tokens, 0), None)
        return self._clock.later(tokens / RATE, report)


def simulate(*, workers: int, prompts: int, seed: int = 0) -> Simulated:
    """Deal the shards of `prompts` prompts to `workers` workers of RATE tokens a second."""
    clock, draw = Clock(), random.Random(seed)
    crew: list[ShardWorker] = [Simulation(str(number), clock, draw) for number in range(workers)]
    published: set[int] = set()
    tokens = 0

    def reported(report: ShardReport, worker: ShardWorker) -> None:
        nonlocal tokens
        published.add(report.number)
        tokens += report.counts.tokens

    shards = -(-prompts // SHARD_PROMPTS)
    tracemalloc.start()
    cpu = time.thread_time()
    Dealer(range(shards), crew, None, done=DrivenQueue(clock)).run(reported)
    spent = time.thread_time() - cpu
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Simulated(
        workers, shards, len(published), clock.now, tokens / RATE / workers, round(spent, 2), round(most / 2**20, 1)
    )
