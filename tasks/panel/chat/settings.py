"""Settings of annotators that ask a chat model: where the model is, what it costs, and how hard it may be asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.files import digest
from storage.manifest import folder_digest
from tasks.panel.annotators.settings import AnnotatorBase, policy_folder

#: Settings of a chat annotator that decide nothing about its answers. They may change between attempts.
OPERATIONS = frozenset(
    {"base_url", "api_key_env", "concurrency", "per_minute", "timeout", "retries", "faults", "pause", "probes", "price"}
)


class Price(BaseModel):
    """What a provider charges, in the currency of your choice, for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def of(self, prompt: int, completion: int) -> float:
        return (self.prompt * prompt + self.completion * completion) / 1e6


class ChatEngineSettings(BaseModel):
    """How vLLM runs a judge on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_model_len: int | None = Field(None, ge=1)  # tokens of question and answer; None = the model's context
    enforce_eager: bool = False
    tensor_parallel: int = Field(1, ge=1)
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)  # GPU
    kv_cache_gib: float = Field(2.0, gt=0)  # CPU
    start_timeout: float = Field(900, gt=0)  # seconds


class ChatSettings(AnnotatorBase):
    """What every annotator that asks a chat model has."""

    operational: ClassVar[frozenset[str]] = OPERATIONS

    backend: Literal["endpoint", "vllm"] = "endpoint"  # an OpenAI-compatible server, or vLLM on this machine
    model: str  # endpoint: the name it serves; vllm: a folder; or policy, previous, initial (of the run)
    base_url: str = "http://127.0.0.1:8000/v1"  # endpoint
    api_key_env: str | None = None  # endpoint: environment variable with the key; None = no key is sent
    engine: ChatEngineSettings = ChatEngineSettings()  # vllm
    system: str | None = None  # system message
    max_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.0, ge=0)
    extra_body: dict[str, Any] = Field({})  # endpoint: further fields of each request, e.g. {seed: 0}
    concurrency: int = Field(16, ge=1)  # requests in flight
    per_minute: float | None = Field(None, gt=0)  # endpoint: requests; None = as many as come
    timeout: float = Field(120, gt=0)  # endpoint: seconds a request
    retries: int = Field(3, ge=0)  # endpoint: transport faults only
    faults: int = Field(8, ge=1)  # consecutive faults (after their retries) that open the circuit
    pause: float = Field(30, ge=0)  # seconds until one question probes an open circuit; doubles each time
    probes: int = Field(3, ge=0)  # failed probes after which the annotator is given up for this stage
    price: Price | None = None

    @model_validator(mode="after")
    def _of_its_backend(self) -> Self:
        """What the backend would not heed is refused."""
        foreign = {
            "endpoint": ("engine",),
            "vllm": ("base_url", "api_key_env", "extra_body", "per_minute", "timeout", "retries"),
        }[self.backend]
        if unheeded := [name for name in foreign if name in self.model_fields_set and _differs(self, name)]:
            raise ValueError(f"backend={self.backend} does not heed {', '.join(unheeded)}")
        if "@" in urlsplit(self.base_url).netloc:
            raise ValueError("base_url has a password in it, which config copies would keep; use api_key_env")
        return self

    def reads(self) -> list[str]:
        return [self.model] if self.backend == "vllm" else []

    def answers(self) -> str:
        """Digest of what decides an answer: the model (a served name, or a folder's files) and the sampling."""
        model: object = self.model
        if self.backend == "vllm":
            contents = folder_digest(Path(self.model)) if Path(self.model).is_dir() else self.model
            model = [contents, self.engine.dtype, self.engine.max_model_len]
        return digest([self.backend, model, self.max_tokens, self.temperature, self.extra_body])

    def with_policies(self, name: str, policies: Mapping[str, Path]) -> Self:
        if self.backend != "vllm":
            return self
        model = policy_folder(self.model, policies, where=f"annotators.{name}.model")
        return self.model_copy(update={"model": model})


def _differs(settings: ChatSettings, name: str) -> bool:
    return bool(getattr(settings, name) != ChatSettings.model_fields[name].default)
