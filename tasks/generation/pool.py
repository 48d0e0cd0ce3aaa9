"""Several engines on this machine, each on its own GPUs. Not run on GPUs.

The generate stage deals whole shards to them (tasks/generation/dealing.py).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from storage.errors import UserError
from tasks.generation.dealing import ShardWorker, ThreadWorker
from tasks.generation.engines import Engine, Request, Sample
from tasks.generation.settings import SamplingSettings
from tasks.generation.shards import ShardJob, ShardSampler

T = TypeVar("T")


class EnginePool:
    """An Engine and a Crew, made of `engines`. An error of any of them is raised."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)
        self._threads = ThreadPoolExecutor(len(self._engines), thread_name_prefix="engine")

    def check(self, policy: Path) -> None:
        for engine in self._engines:
            engine.check(policy)

    def prepare(self, policy: Path) -> None:
        for engine in self._engines:
            engine.prepare(policy)

    def load(self, policy: Path) -> None:
        self._all(lambda engine: engine.load(policy))

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        """By the first engine, so that the number of engines does not change the batches."""
        return self._engines[0].sample(requests, sampling)

    def workers(self, job: ShardJob) -> list[ShardWorker]:
        job.encode_all()
        return [
            ThreadWorker(str(number), ShardSampler(job, engine), self._threads)
            for number, engine in enumerate(self._engines)
        ]

    def replace(self, worker: ShardWorker) -> ShardWorker:
        raise AssertionError(f"a thread is not lost: {worker.name}")

    def finish(self) -> None:
        """Does nothing: engines that are still loading will have the policy."""

    def dismiss(self) -> None:
        """Close the engines: the calls that wait for them end with an error."""
        self.close()

    def pause(self) -> None:
        self._all(lambda engine: engine.pause())

    def close(self) -> None:
        for engine in self._engines:
            engine.close()

    def _all(self, work: Callable[[Engine], T]) -> list[T]:
        """Call `work` with every engine, all at once. Waits for all of them, even if one fails."""
        futures = [self._threads.submit(work, engine) for engine in self._engines]
        wait(futures)
        return [future.result() for future in futures]


def device_groups(workers: int, tensor_parallel: int) -> list[range]:
    """For each of `workers` engines the numbers of its `tensor_parallel` GPUs. Raises UserError for too few GPUs."""
    import torch

    needed, present = workers * tensor_parallel, torch.cuda.device_count()
    if present < needed:
        raise UserError(
            f"{workers} workers of {tensor_parallel} GPUs need {needed}, and this machine has {present}",
            where=f"engine.workers={workers}",
            remedy="lower engine.workers (on a CPU one engine uses all cores already), or use a cluster: cluster=ray",
        )
    return [range(number * tensor_parallel, (number + 1) * tensor_parallel) for number in range(workers)]
