"""One engine on one place of a Ray cluster. Ray makes an actor of this class; nothing here imports Ray."""

import os
from collections.abc import Sequence
from pathlib import Path

from tasks.cluster.agreement import Facts, facts
from tasks.generation.engines import Engine, EngineSettings, Request, Sample
from tasks.generation.settings import GenerateSpec, SamplingSettings
from tasks.generation.shards import ShardJob, ShardReport, ShardSampler


class EngineActor:
    """A worker: it samples whole shards and publishes them in the run's folder, which it shares with the driver."""

    def __init__(self, engine: EngineSettings, *, trust_remote_code: bool) -> None:
        """engine: with one worker."""
        self._settings, self._trust_remote_code = engine, trust_remote_code
        self._engine: Engine | None = None
        self._sampler: ShardSampler | None = None

    def agree(self, probe: Path) -> Facts:
        """What this worker has in common with the driver. `probe`: a file that the driver wrote; an absolute path."""
        return facts(probe)

    def start(self, spec: GenerateSpec, folder: Path) -> int:
        """Load the policy of `spec`; returns how many shards to hold. folder: the working folder of the driver."""
        os.chdir(folder)  # paths of a spec may be relative
        engine = self._open()
        engine.prepare(spec.policy.path)
        self._sampler = ShardSampler(ShardJob(spec), engine)
        return self._sampler.load()

    def advance(self, numbers: Sequence[int]) -> ShardReport:
        """Take the shards `numbers` too; returns when one is published."""
        if self._sampler is None:
            raise RuntimeError("start the worker before it gets shards")
        return self._sampler.advance(numbers)

    def load(self, policy: Path, folder: Path) -> None:
        os.chdir(folder)
        self._open().load(policy)

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        return self._open().sample(requests, sampling)

    def pause(self) -> None:
        if self._engine is not None:
            self._engine.pause()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _open(self) -> Engine:
        if self._engine is None:
            self._engine = self._settings.open(trust_remote_code=self._trust_remote_code)
        return self._engine
