"""An engine that samples at a fixed pace and computes its samples from the seeds: sampling that takes no processor."""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tasks.generation.engines import EngineSettings, Request, Sample
from tasks.generation.settings import SamplingSettings


class PacedSettings(EngineSettings):
    """seconds: that a shard takes."""

    kind: Literal["benchmarks.overlap.engine:PacedSettings"] = "benchmarks.overlap.engine:PacedSettings"
    seconds: float = 1.0

    def open(self, *, trust_remote_code: bool = False, log: Path | None = None) -> "PacedEngine":
        return PacedEngine(self.seconds)


class PacedEngine:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def check(self, policy: Path) -> None:
        pass

    def prepare(self, policy: Path) -> None:
        pass

    def load(self, policy: Path) -> None:
        pass

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        time.sleep(self._seconds)
        return [[computed(request, index) for index in range(sampling.responses)] for request in requests]

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass


def computed(request: Request, index: int) -> Sample:
    """40 tokens that follow from the request's seed alone."""
    draw = random.Random(f"{request.seed}/{index}")
    ids = [draw.randrange(3, 250) for _ in range(40)]
    return Sample(ids, [-draw.random() for _ in ids], finish_reason="stop")
