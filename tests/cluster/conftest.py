"""A generate stage of 24 prompts in eight shards, sampled by engines that compute their samples from the seeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.artifact import Artifact
from storage.schemas import PROMPTS, table, write_parquet
from tasks.cluster_settings import ClusterSettings
from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
from tests.cluster.echo_engine import EchoSettings

MakeSpec = Callable[..., GenerateSpec]


@pytest.fixture
def make_spec(tmp_path: Path, tiny_policy: Path) -> MakeSpec:
    """`make_spec("name", cluster, seconds=0.1)`: options of the engine, or of its sampling."""
    prompts = tmp_path / "prompts.parquet"
    rows = [
        {"prompt_id": f"{i:016x}", "messages": [{"role": "user", "content": f"what is {i}?"}], "source": f"p.jsonl:{i}"}
        for i in range(24)
    ]
    write_parquet(prompts, table(rows, PROMPTS))

    def make(
        name: str, cluster: ClusterSettings | None = None, *, max_tokens: int = 32, **options: Any
    ) -> GenerateSpec:
        engine = EchoSettings(shard_prompts=3, verify_sequences=0, dtype="float32", max_model_len=256, **options)
        return GenerateSpec(
            folder=tmp_path / name,
            round=1,
            seed=5,
            settings=GenerationSettings(
                sampling=SamplingSettings(responses=2, max_tokens=max_tokens),
                engine=engine,
                cluster=cluster or ClusterSettings(),
            ),
            policy=Artifact.of(tiny_policy),
            prompts=Artifact.of(prompts),
        )

    return make
