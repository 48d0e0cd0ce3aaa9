"""What a sampler is to the generate stage: token ids and seeds in, token ids and log-probabilities out.

Each module of this package is one kind of engine: its settings, whose `open` makes the engine, and the engine. Reading
a configuration imports the module of its `engine.kind`, so heavy libraries are imported inside functions.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from tasks.modeling.end_tokens import end_tokens as end_tokens  # for engines of users, which stop at these tokens
from tasks.modeling.vllm_process import has_gpu

if TYPE_CHECKING:
    from tasks.generation.settings import SamplingSettings

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """One prompt. The seed and j decide response j of a request; responses do not depend on each other."""

    prompt_ids: list[int]
    seed: int  # 0 <= seed < 2**62


@dataclass(frozen=True)
class Sample:
    """One response."""

    token_ids: list[int]  # with the end token, or the tokens of the stop string, when one was sampled
    logprobs: list[float]  # of each token id, nats, before temperature, top_p and top_k
    finish_reason: FinishReason


class Engine(Protocol):
    """Samples from a policy. Memory and processes are held from the first `load` until `close`.

    The same policy, requests, sampling and machine give the same samples, whatever was sampled before.
    """

    def check(self, policy: Path) -> None:
        """Raise UserError if it is known without loading that `policy` cannot be loaded here."""

    def prepare(self, policy: Path) -> None:
        """Begin to start with `policy` without waiting, where starting takes a while; the next `load` waits.

        Does nothing if the engine has started. Raises UserError as `check` does.
        """

    def load(self, policy: Path) -> None:
        """Sample from `policy` (a Hugging Face folder) from now on.

        Every call reads the weights again, except the first one after `prepare` with the same policy.
        """

    def sample(self, requests: Sequence[Request], sampling: "SamplingSettings") -> list[list[Sample]]:
        """`sampling.responses` samples of each request, in the order of the requests."""

    def pause(self) -> None:
        """Free memory while another stage runs, as `between_stages` says. `load` comes before the next `sample`."""

    def close(self) -> None:
        """Free all memory and end all processes. The engine can be loaded again."""


@dataclass(frozen=True)
class Mixture:
    """The geometric mixture of the policy with another one, token by token: pi_other^share pi^(1-share), normalised."""

    policy: Path  # the other one, a Hugging Face folder with the same vocabulary
    share: float  # of the other one, 0 to 1
    first: int = 0  # responses from this index on come from the mixture, those before it from the policy


@runtime_checkable
class MixingEngine(Protocol):
    """An Engine that samples from mixtures."""

    def load_mixture(self, policy: Path, mixture: Mixture) -> None:
        """As `load`. Samples have the log-probabilities of `policy`, whichever model they come from."""


class BatchStream(Protocol):
    """Batches of requests that an engine samples, several at a time, each handed back as soon as it is complete."""

    def submit(self, number: int, requests: Sequence[Request]) -> None:
        """Queue a batch under its number. Returns at once."""

    def completed(self) -> tuple[int, list[list[Sample]]]:
        """Wait until a batch is complete: its number, and the samples of its requests, in their order.

        The engine goes on with the other batches meanwhile. There must be a batch that was not handed back yet.
        """


@runtime_checkable
class StreamingEngine(Protocol):
    """An Engine that samples several batches at a time. One stream at a time, and no `sample` while it has batches."""

    def stream(self, sampling: "SamplingSettings", in_flight: int) -> BatchStream:
        """A new stream, with at most `in_flight` batches sampled together."""


class OneByOne:
    """The BatchStream of an engine that only has `sample`: one batch after the other."""

    def __init__(self, engine: Engine, sampling: "SamplingSettings") -> None:
        self._engine, self._sampling = engine, sampling
        self._waiting: deque[tuple[int, Sequence[Request]]] = deque()

    def submit(self, number: int, requests: Sequence[Request]) -> None:
        self._waiting.append((number, requests))

    def completed(self) -> tuple[int, list[list[Sample]]]:
        number, requests = self._waiting.popleft()
        return number, self._engine.sample(requests, self._sampling)


class EngineError(RuntimeError):
    """The engine failed or died. The message ends with the last lines of its log."""


class EngineDied(EngineError):
    """The engine's process ended while it worked (killed, out of memory). A new engine may succeed."""


class EngineSettings(BaseModel):
    """Settings that every engine has. A kind of engine subclasses this, fixes `kind`, and implements `open`.

    An engine of your own adds its fields below these; fields in `operational` are not part of the stage's key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Fields that do not decide which responses are sampled. They may change between two attempts at a stage.
    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "kv_cache_gib",
            "gpu_memory_utilization",
            "verify_sequences",
            "verify_tolerance",
            "between_stages",
            "start_timeout",
            "workers",
        }
    )

    #: Whether the engine is a MixingEngine.
    mixes: ClassVar[bool] = False

    kind: str  # a module of tasks.generation.engines, an entry point of irepo.engines, or my_package.my_module:MyEngine
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_model_len: int | None = Field(None, ge=8)  # prompt + response tokens; None = the policy's context
    kv_cache_gib: float = Field(4.0, gt=0)  # vLLM on CPU: memory for the KV cache
    gpu_memory_utilization: float = Field(0.85, gt=0, lt=1)  # vLLM on GPU: share of the device
    tensor_parallel: int = Field(1, ge=1)  # vLLM: GPUs (or processes, on a CPU) that share one copy of the policy
    # Engines that share the shards, each on tensor_parallel GPUs: on this machine (vLLM), or on a cluster.
    workers: int = Field(1, ge=1)
    enforce_eager: bool = False  # skip compilation: faster start for small policies
    shard_prompts: int = Field(64, ge=1)  # prompts per published shard, the unit of resumption
    # Shards that an engine samples together; None = 1 on a CPU, where their bytes then repeat, 8 on a GPU.
    shards_in_flight: int | None = Field(None, ge=1)
    verify_sequences: int = Field(8, ge=0)  # responses re-scored by the training forward; 0 = off
    verify_tolerance: float | None = Field(None, gt=0)  # nats per token; None = 1e-3 in float32, 0.1 otherwise
    # What the engine does while another stage runs. auto: sleep on a GPU, keep on a CPU.
    between_stages: Literal["auto", "keep", "sleep", "stop"] = "auto"
    start_timeout: float = Field(600, gt=0)  # seconds until the engine must be ready

    def while_paused(self) -> Literal["keep", "sleep", "stop"]:
        """What the engine does on this machine while another stage runs."""
        if self.between_stages == "auto":
            return "sleep" if has_gpu() else "keep"
        return self.between_stages

    @abstractmethod
    def open(self, *, trust_remote_code: bool = False, log: Path | None = None) -> Engine:
        """The engine. It starts nothing before the first `prepare` or `load`.

        `log`: where a process of the engine writes its log; None = a temporary file.
        """
