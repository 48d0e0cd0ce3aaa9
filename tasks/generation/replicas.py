"""Several vLLM engines side by side, each on GPUs of its own, behind the protocol of one. Not run on GPUs.

Prompts are dealt out in turn, so that every replica has as many, long and short. A prompt's responses are drawn from
streams of their own (its request's seed), whichever replica draws them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from storage.errors import UserError
from tasks.generation.engines import Engine, Request, Sample
from tasks.generation.settings import EngineSettings, SamplingSettings
from tasks.generation.vllm_engine import VllmEngine

T = TypeVar("T")


class Replicas:
    """An Engine of `engines`, all with the same policy; what one of them raises is raised."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)

    def check(self, policy: Path) -> None:
        for engine in self._engines:
            engine.check(policy)

    def prepare(self, policy: Path) -> None:
        for engine in self._engines:
            engine.prepare(policy)

    def load(self, policy: Path) -> None:
        self._each(lambda number: self._engines[number].load(policy))

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        count = len(self._engines)
        hands = [requests[number::count] for number in range(count)]
        drawn = self._each(
            lambda number: self._engines[number].sample(hands[number], sampling) if hands[number] else []
        )
        samples: list[list[Sample]] = [[] for _ in requests]
        for number, hand in enumerate(drawn):
            samples[number::count] = hand
        return samples

    def pause(self) -> None:
        self._each(lambda number: self._engines[number].pause())

    def close(self) -> None:
        self._each(lambda number: self._engines[number].close())

    def _each(self, work: Callable[[int], T]) -> list[T]:
        """`work` of every engine's number, all at once; waits for all of them even where one fails."""
        with ThreadPoolExecutor(len(self._engines), thread_name_prefix="replica") as pool:
            futures = [pool.submit(work, number) for number in range(len(self._engines))]
        return [future.result() for future in futures]


def open_replicas(settings: EngineSettings, *, trust_remote_code: bool, log: Path | None) -> Replicas:
    """`settings.replicas` engines, each on its own `settings.tensor_parallel` GPUs; nothing is started.

    Raises UserError where there are fewer GPUs.
    """
    import torch

    each, wanted = settings.tensor_parallel, settings.replicas * settings.tensor_parallel
    found = torch.cuda.device_count()
    if found < wanted:
        raise UserError(
            f"{settings.replicas} replicas of {each} GPUs need {wanted}, and there are {found}",
            where=f"engine.replicas={settings.replicas}",
            remedy="lower engine.replicas; on a CPU one engine has all cores already",
        )
    return Replicas(
        [
            VllmEngine(
                settings,
                trust_remote_code=trust_remote_code,
                log=log and log.with_name(f"{log.stem}-{number}{log.suffix}"),
                devices=range(number * each, (number + 1) * each),
            )
            for number in range(settings.replicas)
        ]
    )
