"""What a worker's start costs, and how much faster two workers are than one: warm engines, the same shards."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.cluster.victim import WORKERS, ClusterVictim
from conf.compose import compose_config
from storage.artifact import Artifact
from storage.schemas import PROMPTS, table, write_parquet
from tasks.cluster.ray_engines import RayEngines
from tasks.cluster_settings import ClusterSettings
from tasks.generation.dealing import Dealer, InlineWorker, ShardWorker
from tasks.generation.engines import EngineSettings
from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
from tasks.generation.shards import ShardJob, ShardSampler

SHARDS, SHARD_PROMPTS = 12, 8


@dataclass
class Speed:
    """start: seconds from nothing to the first shard, by arm. seconds: of all shards, by arm, one for each repetition.
    equal: whether every arm published the same bytes."""

    start: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    equal: bool = True

    def ratio(self, slow: str, fast: str) -> float:
        """How much faster `fast` is: the median over repetitions, whose arms ran one after the other."""
        return median(one / two for one, two in zip(self.seconds[slow], self.seconds[fast], strict=True))


ONE_PROCESS, ONE_WORKER, TWO_WORKERS = "one process", "one worker", "two workers"


class SpeedTest:
    def __init__(self, victim: ClusterVictim) -> None:
        """victim: with the address of a cluster that has room for WORKERS workers."""
        self._home = victim.home / "speed"
        self._policy = Artifact.of(victim.policy)
        config = compose_config(victim.words(victim.home / "planned"))
        changes = {"verify_sequences": 0, "shard_prompts": SHARD_PROMPTS}
        self._engine: EngineSettings = type(config.engine).model_validate(config.engine.model_dump() | changes)
        self._cluster: ClusterSettings = config.cluster
        self._prompts = self._home / "prompts.parquet"
        self._home.mkdir()
        rows = [
            {
                "prompt_id": f"{i:016x}",
                "messages": [{"role": "user", "content": f"what is {i}?"}],
                "source": f"p.jsonl:{i}",
            }
            for i in range(SHARDS * SHARD_PROMPTS)
        ]
        write_parquet(self._prompts, table(rows, PROMPTS))
        self._speed = Speed()

    def measure(self, repetitions: int) -> Speed:
        one = type(self._engine).model_validate(self._engine.model_dump() | {"workers": 1})
        engine = one.open()
        crew = RayEngines(self._engine, self._cluster, trust_remote_code=False)
        try:
            for number in range(repetitions + 1):  # the first starts the engines, with one shard for each
                inline = self._job(ONE_PROCESS, number)
                inline.encode_all()
                self._deal(inline, [InlineWorker(ShardSampler(inline, engine))], None, ONE_PROCESS, number)
                for arm, workers in ((TWO_WORKERS, WORKERS), (ONE_WORKER, 1)):
                    job = self._job(arm, number)
                    self._deal(job, crew.workers(job)[:workers], crew, arm, number)
        finally:
            engine.close()
            crew.close()
        return self._speed

    def _deal(
        self, job: ShardJob, workers: Sequence[ShardWorker], crew: RayEngines | None, arm: str, number: int
    ) -> None:
        clock = time.monotonic()
        shards = range(WORKERS) if number == 0 else range(len(job.shards))
        Dealer(shards, workers, crew).run(lambda report, worker: None)
        seconds = round(time.monotonic() - clock, 2)
        if number == 0:
            self._speed.start[arm] = seconds
            return
        self._speed.seconds.setdefault(arm, []).append(seconds)
        reference = self._folder(ONE_PROCESS, 1)
        self._speed.equal &= all(
            (reference / path.name).read_bytes() == path.read_bytes()
            for path in self._folder(arm, number).glob("responses-*.parquet")
        )

    def _job(self, arm: str, number: int) -> ShardJob:
        spec = GenerateSpec(
            folder=self._folder(arm, number),
            round=1,
            seed=5,
            settings=GenerationSettings(
                sampling=SamplingSettings(responses=4, max_tokens=64), engine=self._engine, cluster=self._cluster
            ),
            policy=self._policy,
            prompts=Artifact.of(self._prompts),
        )
        spec.folder.mkdir(parents=True)
        return ShardJob(spec)

    def _folder(self, arm: str, number: int) -> Path:
        return self._home / f"{arm.replace(' ', '-')}-{number}"
