"""Chat models that judge: behind an OpenAI-compatible endpoint, or on this machine."""

from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

#: Where requests note the faults of transport they meet; whoever asks sets it to a list of his own.
faults_met: ContextVar[list[str]] = ContextVar("faults_met")

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Token:
    """One generated token and the likeliest alternatives at its place: text -> log-probability (nats), itself too."""

    text: str
    top: dict[str, float]


@dataclass(frozen=True)
class Reply:
    """The end of one request that was answered. `error` says what is wrong with the answer, if anything."""

    text: str | None
    error: str | None
    seconds: float
    tokens: int | None  # prompt and completion
    cost: float | None  # None without a price
    top_logprobs: tuple[Token, ...] = ()  # by generated token, where they were asked for and the server gives them


class Chat(Protocol):
    """A chat model. Requests may be made concurrently; it keeps its own limits on them."""

    def connected(self) -> AbstractAsyncContextManager[None]: ...

    async def chat(self, messages: Messages, *, max_tokens: int, temperature: float, top_logprobs: int = 0) -> Reply:
        """One completion of `messages`. Raises protocol.Fault when nobody answers after the retries."""
