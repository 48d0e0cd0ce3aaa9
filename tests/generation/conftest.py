"""A small generate stage, and an engine that records its calls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.schemas import PROMPTS, table, write_parquet
from tasks.generation.engines import EngineSettings, Request, Sample
from tasks.generation.engines.transformers import TransformersEngine, TransformersSettings
from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import load_tokenizer

CPU_ENGINE: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 0.125}

MakeSpec = Callable[..., GenerateSpec]


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"what is {'the sum of ' * (number % 3)}{number}?"}]


@pytest.fixture(scope="session")
def requests(tiny_policy: Path) -> list[Request]:
    """Six requests with prompts of different lengths."""
    tokenizer = load_tokenizer(tiny_policy)
    return [Request(encode_chat(tokenizer, question(i)), seed=1000 * i) for i in range(6)]


class WatchedEngine(TransformersEngine):
    """Records its calls. After `fail_after` shards it is interrupted."""

    def __init__(self, settings: EngineSettings | None = None, *, fail_after: int = -1) -> None:
        super().__init__(settings or TransformersSettings(dtype="float32"))
        self.loaded: list[Path] = []
        self.sampled: list[int] = []  # requests in each call
        self.fail_after = fail_after

    def load(self, policy: Path) -> None:
        self.loaded.append(policy)
        super().load(policy)

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        if len(self.sampled) == self.fail_after:
            raise KeyboardInterrupt
        self.sampled.append(len(requests))
        return super().sample(requests, sampling)


@pytest.fixture
def make_spec(tmp_path: Path, tiny_policy: Path) -> MakeSpec:
    """Spec of a stage of 7 prompts in shards of 3: `make_spec("name", max_tokens=5, kind="vllm")`."""
    prompts = tmp_path / "prompts.parquet"
    rows = [{"prompt_id": f"{i:016x}", "messages": question(i), "source": f"prompts.jsonl:{i + 1}"} for i in range(7)]
    write_parquet(prompts, table(rows, PROMPTS))

    def make(name: str = "generate", *, policy: Path = tiny_policy, seed: int = 5, **options: Any) -> GenerateSpec:
        sampling = {"responses": 2, "max_tokens": 12}
        engine = {"kind": "transformers", "shard_prompts": 3, "verify_sequences": 4} | CPU_ENGINE
        for key, value in options.items():
            (sampling if key in SamplingSettings.model_fields else engine)[key] = value
        settings = GenerationSettings.model_validate({"sampling": sampling, "engine": engine})
        return GenerateSpec(
            folder=tmp_path / name, round=1, seed=seed, settings=settings, policy=policy, prompts=prompts
        )

    return make
