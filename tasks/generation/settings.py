"""Settings and spec of the generate stage."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from storage.artifact import Artifact
from storage.stage import Spec, TaskName
from tasks.cluster_settings import ClusterSettings, Where
from tasks.generation.registry import AnyEngine


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


class GenerationSettings(BaseModel):
    """The slice of the config that shapes the responses' bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampling: SamplingSettings
    engine: AnyEngine
    cluster: Where = ClusterSettings()
    trust_remote_code: bool = False


class MixtureSettings(BaseModel):
    """Responses of the geometric mixture pi_ref^share pi^(1-share), token by token (tasks/generation/engines)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(ge=0, le=1)  # of the reference
    first: int = Field(0, ge=0)  # responses from this index on are of the mixture, those before it of the policy


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
    # Stages with the same seed and draw give response j of a prompt the same random numbers. None: the round.
    draw: int | None = Field(None, ge=0)
    prefixes: Artifact | None = None  # Parquet of storage.schemas.PREFIXES: how the response to each prompt begins
    mixture: MixtureSettings | None = None  # None: all responses are the policy's
    reference: Artifact | None = None  # the policy that `mixture` mixes in, a Hugging Face folder
