"""Settings of annotators that use a chat model: where the model is, its price, and the limits on requests."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from storage.files import digest
from storage.manifest import folder_digest
from tasks.panel.annotators.settings import POLICY_NAMES, AnnotatorBase, LoadsModel, policy_folder
from tasks.panel.chat.secrets import ExtraBody, KeyVariable


class Price(BaseModel):
    """What a provider charges for a million tokens, in any currency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def of(self, prompt: int, completion: int) -> float:
        return (self.prompt * prompt + self.completion * completion) / 1e6


class ChatEngineSettings(BaseModel):
    """How vLLM runs the judge on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operational: ClassVar[frozenset[str]] = frozenset({"gpu_memory_utilization", "kv_cache_gib", "start_timeout"})

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"  # of weights and cache
    max_model_len: int | None = Field(None, ge=1)  # tokens of prompt and answer; None = the model's context length
    enforce_eager: bool = False  # true: no compilation and no CUDA graphs
    tensor_parallel: int = Field(1, ge=1)  # GPUs that the model is divided over
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)  # GPU
    kv_cache_gib: float = Field(2.0, gt=0)  # CPU
    start_timeout: float = Field(900, gt=0)  # seconds


class ChatSettings(AnnotatorBase, LoadsModel):
    """Settings of every annotator that uses a chat model."""

    backend: Literal["endpoint", "vllm"] = "endpoint"  # an OpenAI-compatible server, or vLLM on this machine
    model: str  # endpoint: the name it serves; vllm: a folder, or the run's policy, previous, initial
    base_url: str = "http://127.0.0.1:8000/v1"  # endpoint
    api_key_env: KeyVariable = None  # endpoint: environment variable that holds the key; None = send no key
    engine: ChatEngineSettings = ChatEngineSettings()  # vllm
    system: str | None = None  # system message
    max_tokens: int | None = Field(512, ge=1)  # endpoint: null leaves the field out of the request
    temperature: float | None = Field(0.0, ge=0)  # endpoint: null leaves the field out of the request
    # endpoint: more fields for each request, e.g. {seed: 0}; one that is null is left out of the request
    extra_body: ExtraBody = Field({})
    concurrency: int = Field(16, ge=1)  # requests in flight
    per_minute: float | None = Field(None, gt=0)  # endpoint: requests; None = no limit
    timeout: float = Field(120, gt=0)  # endpoint: seconds of one request, from connecting to the last byte
    retries: int = Field(3, ge=0)  # endpoint: transport faults only
    faults: int = Field(8, ge=1)  # consecutive faults (after retries) that open the circuit breaker
    pause: float = Field(30, ge=0)  # seconds until one question probes the model again; doubles each time
    probes: int = Field(3, ge=0)  # failed probes after which the annotator is given up for this stage
    price: Price | None = None  # of a million tokens: {prompt: 1.0, completion: 4.0}

    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "base_url",
            "api_key_env",
            "concurrency",
            "per_minute",
            "timeout",
            "retries",
            "faults",
            "pause",
            "probes",
            "price",
        }
    )

    @model_validator(mode="after")
    def _fits_the_backend(self) -> Self:
        unused = {
            "endpoint": ("engine", "template_arguments", "template_date", "trust_remote_code"),
            "vllm": ("base_url", "api_key_env", "extra_body", "per_minute", "timeout", "retries"),
        }[self.backend]
        if ignored := [name for name in unused if name in self.model_fields_set and _differs(self, name)]:
            raise ValueError(f"backend={self.backend} does not use {', '.join(ignored)}; remove it")
        if "@" in urlsplit(self.base_url).netloc:
            raise ValueError("base_url contains a password, and copies of the configuration keep it; use api_key_env")
        if self.backend == "vllm" and (self.max_tokens is None or self.temperature is None):
            raise ValueError("backend=vllm needs numbers for max_tokens and temperature; only an endpoint has defaults")
        return self

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_question(cls, fields: dict[str, object]) -> dict[str, object]:
        for name in ("messages", "model"):
            if fields.get(name) is not None:
                raise ValueError(f"extra_body.{name} would replace what the annotator asks; remove it")
        if fields.get("stream"):
            raise ValueError("extra_body.stream: replies are read as a whole, not as a stream; remove it")
        if fields.get("n") not in (None, 1):
            raise ValueError("extra_body.n: one reply a question is read, and the others would be paid for; remove it")
        return fields

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        return checked_address(url)

    def check(self, name: str) -> None:
        from tasks.modeling.load import check_policy_folder

        if self.backend == "vllm" and self.model not in POLICY_NAMES:
            check_policy_folder(Path(self.model), trust_remote_code=self.trust_remote_code)
            self.check_template(name, Path(self.model))

    def files(self) -> list[str]:
        return [self.model] if self.backend == "vllm" else []

    def models(self) -> list[str]:
        return [self.model]

    def key_variables(self) -> list[str]:
        return [self.api_key_env] if self.api_key_env else []

    @property
    def unpriced(self) -> bool:
        return self.backend == "endpoint" and self.price is None

    def answers(self) -> str:
        """Digest of what decides an answer: the model (its served name, or its folder's files) and the sampling."""
        model: object = self.model
        if self.backend == "vllm":
            contents = folder_digest(Path(self.model)) if Path(self.model).is_dir() else self.model
            parts: list[object] = [contents, self.engine.dtype, self.engine.max_model_len]
            if self.template_values:
                parts.append(self.template_values.model_dump(mode="json"))
            model = parts
        return digest([self.backend, model, self.max_tokens, self.temperature, self.extra_body])

    def with_policies(self, name: str, policies: Mapping[str, Path]) -> Self:
        if self.backend != "vllm":
            return self
        model = policy_folder(self.model, policies, where=f"annotators.{name}.model")
        return type(self)(**(dict(self) | {"model": model}))


def checked_address(url: str) -> str:
    """`url`, if requests can be sent below it. Raises ValueError with an example when they cannot."""
    example = "write it like http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"base_url is not an address ({error}); {example}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"base_url does not start with http:// or https:// and a host; {example}")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError(f"base_url contains white space; {example}")
    if parts.query or parts.fragment:
        raise ValueError(f"base_url has a part after ? or #, but paths are appended to it; {example}")
    if parts.path.rstrip("/").endswith(("/completions", "/models")):
        raise ValueError(f"base_url names one page of the server; {example}, without /chat/completions")
    return url


def _differs(settings: ChatSettings, name: str) -> bool:
    return bool(getattr(settings, name) != ChatSettings.model_fields[name].default)
