"""An engine that computes its samples from the seeds alone, and can be slow or die: for tests of clusters."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from benchmarks.overlap.engine import PacedEngine
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


class EchoEngine(PacedEngine):
    def __init__(self, settings: EchoSettings) -> None:
        super().__init__(settings.seconds)
        self._settings = settings

    def load(self, policy: Path) -> None:
        if self._settings.folder is not None:
            (self._settings.folder / f"{os.getpid()}-{id(self)}").touch()

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        folder = self._settings.folder
        while folder is not None and len(list(folder.glob("[0-9]*-[0-9]*"))) < self._settings.waits_for:
            time.sleep(0.02)
        if any(request.seed == self._settings.dies_on for request in requests):
            time.sleep(self._settings.seconds)
            raise EngineDied("out of memory")
        return super().sample(requests, sampling)
