"""What a sampler is to the generate stage: token ids and seeds in, token ids and log-probabilities out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tasks.generation.settings import SamplingSettings
from tasks.modeling.load import load_tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """One prompt. Response j of a request is drawn from a stream of its own that `seed` and j decide."""

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
        """Raise UserError where it is plain beforehand that `policy` cannot be loaded here."""

    def prepare(self, policy: Path) -> None:
        """Begin to start with `policy`, without waiting, where that takes a while; the next `load` waits.

        Nothing where the engine has started. Raises UserError as `check` does.
        """

    def load(self, policy: Path) -> None:
        """Make `policy` (a Hugging Face folder) the one that is sampled; reads the weights anew at every call,
        but for the one that `prepare` began with."""

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        """`sampling.responses` samples of each request, in the order of the requests."""

    def pause(self) -> None:
        """Give memory back while another stage runs, as `between_stages` says. `load` comes before the next sample."""

    def close(self) -> None:
        """Give everything back. The engine can be loaded again."""


class EngineError(RuntimeError):
    """The engine failed or died. The message has the end of its log."""


class EngineDied(EngineError):
    """The engine's process ended while it worked (killed, out of memory): a new one may do better."""


def end_tokens(policy: Path, *, trust_remote_code: bool = False) -> list[int]:
    """Ids of the tokens that end a response, sorted: the tokenizer's end token and those of generation_config.json.

    Both engines stop at exactly these.
    """
    ids: set[int] = set()
    path = policy / "generation_config.json"
    named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    if named is not None:
        ids |= {named} if isinstance(named, int) else set(named)
    own = load_tokenizer(policy, trust_remote_code=trust_remote_code).eos_token_id
    if isinstance(own, int):
        ids.add(own)
    return sorted(ids)
