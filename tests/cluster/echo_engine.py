"""An engine that computes its samples from the seeds alone, and can be slow or die: for tests of clusters."""

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tasks.generation.engines import EngineDied, EngineSettings, Request, Sample
from tasks.generation.settings import SamplingSettings


class EchoSettings(EngineSettings):
    kind: Literal["tests.cluster.echo_engine:EchoSettings"] = "tests.cluster.echo_engine:EchoSettings"
    seconds: float = 0.0  # that a shard takes
    folder: Path | None = None  # where every engine leaves a file <process>-<engine> when it has loaded
    waits_for: int = 0  # engines that must have loaded before one samples
    dies_on: int | None = None  # the seed of the request at which the engine dies

    def open(self, *, trust_remote_code: bool = False, log: Path | None = None) -> "EchoEngine":
        return EchoEngine(self)


class EchoEngine:
    def __init__(self, settings: EchoSettings) -> None:
        self._settings = settings

    def check(self, policy: Path) -> None:
        pass

    def prepare(self, policy: Path) -> None:
        pass

    def load(self, policy: Path) -> None:
        if self._settings.folder is not None:
            (self._settings.folder / f"{os.getpid()}-{id(self)}").touch()

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        folder = self._settings.folder
        while folder is not None and len(list(folder.glob("[0-9]*-[0-9]*"))) < self._settings.waits_for:
            time.sleep(0.02)
        time.sleep(self._settings.seconds)
        if any(request.seed == self._settings.dies_on for request in requests):
            raise EngineDied("out of memory")
        return [[_sample(request, index) for index in range(sampling.responses)] for request in requests]

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass


def _sample(request: Request, index: int) -> Sample:
    draw = random.Random(f"{request.seed}/{index}")
    ids = [draw.randrange(3, 250) for _ in range(draw.randrange(1, 20))]
    return Sample(ids, [-draw.random() for _ in ids], finish_reason="stop")
