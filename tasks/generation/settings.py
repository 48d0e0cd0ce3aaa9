"""Settings and spec of the generate stage."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.stage import Spec


class SamplingSettings(BaseModel):
    """How responses are drawn. Names are vLLM's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    responses: int = Field(4, ge=1, le=256)  # m, responses per prompt, one n=m request
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)  # 0 = all tokens
    max_tokens: int = Field(512, ge=1)  # response tokens, the end token included
    stop: list[str] = []


class EngineSettings(BaseModel):
    """What draws them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["vllm", "transformers"] = "vllm"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_model_len: int | None = Field(None, ge=8)  # prompt + response tokens; None = the policy's context
    kv_cache_gib: float = Field(4.0, gt=0)  # vLLM on CPU: memory for the KV cache
    gpu_memory_utilization: float = Field(0.85, gt=0, lt=1)  # vLLM on GPU: share of the device
    tensor_parallel: int = Field(1, ge=1)
    replicas: int = Field(1, ge=1)  # vLLM on GPUs: so many engines, each on tensor_parallel of them; they share prompts
    enforce_eager: bool = False  # skip compilation: faster start for small policies
    shard_prompts: int = Field(64, ge=1)  # prompts per published shard, the unit of resumption
    verify_sequences: int = Field(8, ge=0)  # responses re-scored by the training forward; 0 = off
    verify_tolerance: float | None = Field(None, gt=0)  # nats a token; None = 1e-3 in float32, 0.1 otherwise
    between_stages: Literal["keep", "sleep", "stop"] = "keep"  # what the engine does while another stage runs
    start_timeout: float = Field(600, gt=0)  # seconds until the engine must be ready

    @model_validator(mode="after")
    def _replicas_are_of_vllm(self) -> "EngineSettings":
        if self.replicas > 1 and self.kind != "vllm":
            raise ValueError(f"replicas={self.replicas} is for engine.kind=vllm, not {self.kind}")
        return self


class GenerationSettings(BaseModel):
    """The slice of the config that shapes the responses' bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampling: SamplingSettings
    engine: EngineSettings
    trust_remote_code: bool = False


class GenerateSpec(Spec):
    """Sample `settings.sampling.responses` responses to each prompt of `prompts` from the policy in `policy`."""

    stage: ClassVar[str] = "generate"
    version: ClassVar[int] = 1

    settings: GenerationSettings
    policy: Path  # a Hugging Face folder with tokenizer and chat template
    prompts: Path  # Parquet of storage.schemas.PROMPTS
    prefixes: Path | None = None  # Parquet of storage.schemas.PREFIXES: how the response to each prompt begins

    def keyed_settings(self) -> dict[str, Any]:
        """`replicas` came later: with one, keys are what they were. More of them sample in other batches."""
        settings = super().keyed_settings()
        if settings["engine"]["replicas"] == 1:
            del settings["engine"]["replicas"]
        return settings
