"""The run that is played in one process, on the cluster, and on the cluster with kills."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.victim import NAME as NAME
from benchmarks.chaos.victim import Victim
from conf.compose import compose_config
from flows.round import list_stages
from tasks.cluster.local import KEEP_LOOPBACK
from tasks.report import stage_title

WORKERS = 2
#: Little work, in many shards: a stage has many moments at which to kill.
_SMALL = ["prompts.per_round=24", "sampling.responses=4", "sampling.max_tokens=32", "engine.shard_prompts=4"]


@dataclass(frozen=True)
class ClusterVictim(Victim):
    """engine: a file of conf/engine. address: of the Ray cluster; None samples with one engine, without Ray."""

    epochs: int = 1
    prompts: int = 200
    heldout: int = 16
    engine: str = "transformers"
    address: str | None = None

    def words(self, runs: Path) -> list[str]:
        where = ["cluster=ray", f"cluster.address={self.address}", f"engine.workers={WORKERS}"]
        words = [*super().words(runs), f"engine={self.engine}", *_SMALL]
        return words + (where if self.address else [])

    def environment(self, mark: str) -> dict[str, str]:
        return super().environment(mark) | KEEP_LOOPBACK

    def sampling_stages(self) -> set[str]:
        """Names below the round of the stages that sample."""
        specs = list_stages(compose_config(self.words(self.home / "planned")))
        return {stage_title(spec) for spec in specs if spec.samples}
