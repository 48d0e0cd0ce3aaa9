"""Settings and spec of the generate stage."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.artifact import Artifact
from storage.stage import Spec, TaskName


class SamplingSettings(BaseModel):
    """How responses are drawn. Names are vLLM's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    responses: int = Field(4, ge=1, le=256)  # m, responses per prompt, one n=m request
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)  # 0 = all tokens
    max_tokens: int = Field(512, ge=1)  # response tokens, the end token included
    stop: list[str] = []

    def drawing(
        self, responses: int, *, temperature: float | None = None, max_tokens: int | None = None
    ) -> "SamplingSettings":
        """The same settings with another number of responses and, where given, temperature or length."""
        return SamplingSettings(
            responses=responses,
            temperature=self.temperature if temperature is None else temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=self.max_tokens if max_tokens is None else max_tokens,
            stop=self.stop,
        )


class EngineSettings(BaseModel):
    """What draws them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Not part of the key of a generate stage: they change how responses are drawn and checked, not which ones.
    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "verify_sequences",
            "verify_tolerance",
            "start_timeout",
            "between_stages",
            "gpu_memory_utilization",
            "kv_cache_gib",
        }
    )

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
    runs: ClassVar[str] = "tasks.generation.stage:run"
    task: ClassVar[TaskName] = "generate"
    samples: ClassVar[bool] = True

    settings: GenerationSettings
    policy: Artifact  # a Hugging Face folder with tokenizer and chat template
    prompts: Artifact  # Parquet of storage.schemas.PROMPTS
    prefixes: Artifact | None = None  # Parquet of storage.schemas.PREFIXES: how the response to each prompt begins
