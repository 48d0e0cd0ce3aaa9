"""Several engines side by side, each on its own GPUs, used as one engine. Not run on GPUs.

Prompts are dealt out in turn, so every replica gets as many of them, long and short. The seed of a request decides its
responses, not the replica that samples them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from storage.errors import UserError
from tasks.generation.engines import Engine, Request, Sample
from tasks.generation.settings import SamplingSettings

T = TypeVar("T")


class Replicas:
    """An Engine made of `engines`, all with the same policy. An error of any of them is raised."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)

    def check(self, policy: Path) -> None:
        for engine in self._engines:
            engine.check(policy)

    def prepare(self, policy: Path) -> None:
        for engine in self._engines:
            engine.prepare(policy)

    def load(self, policy: Path) -> None:
        self._all(lambda number: self._engines[number].load(policy))

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        count = len(self._engines)
        shares = [requests[number::count] for number in range(count)]
        sampled = self._all(
            lambda number: self._engines[number].sample(shares[number], sampling) if shares[number] else []
        )
        samples: list[list[Sample]] = [[] for _ in requests]
        for number, share in enumerate(sampled):
            samples[number::count] = share
        return samples

    def pause(self) -> None:
        self._all(lambda number: self._engines[number].pause())

    def close(self) -> None:
        self._all(lambda number: self._engines[number].close())

    def _all(self, work: Callable[[int], T]) -> list[T]:
        """Call `work` with the number of every engine, all at once. Waits for all of them, even if one fails."""
        with ThreadPoolExecutor(len(self._engines), thread_name_prefix="replica") as pool:
            futures = [pool.submit(work, number) for number in range(len(self._engines))]
        return [future.result() for future in futures]


def device_groups(replicas: int, tensor_parallel: int) -> list[range]:
    """For each of `replicas` engines the numbers of its `tensor_parallel` GPUs. Raises UserError for too few GPUs."""
    import torch

    needed, present = replicas * tensor_parallel, torch.cuda.device_count()
    if present < needed:
        raise UserError(
            f"{replicas} replicas of {tensor_parallel} GPUs need {needed}, and this machine has {present}",
            where=f"engine.replicas={replicas}",
            remedy="lower engine.replicas; on a CPU one engine uses all cores already",
        )
    return [range(number * tensor_parallel, (number + 1) * tensor_parallel) for number in range(replicas)]
