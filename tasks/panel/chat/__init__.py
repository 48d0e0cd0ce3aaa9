"""Chat models that judge: behind an OpenAI-compatible endpoint, or in vLLM on this machine."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

#: Requests append their transport faults to this list; the caller sets a new list for each question.
faults_met: ContextVar[list[str]] = ContextVar("faults_met")

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Token:
    """One generated token and the log-probabilities (nats) of the likeliest tokens at its place, itself included."""

    text: str
    top: dict[str, float]


@dataclass(frozen=True)
class Reply:
    """The answer to one request. `error` says what is wrong with it; None if nothing is."""

    text: str | None
    error: str | None
    seconds: float
    tokens: int | None  # prompt and completion; None when the server does not say
    cost: float | None  # None without a price
    top_logprobs: tuple[Token, ...] = ()  # one per generated token, if requested and given by the server


class Chat(Protocol):
    """A chat model. It accepts concurrent requests, and limits them itself."""

    def connected(self) -> AbstractAsyncContextManager[None]: ...

    async def chat(
        self,
        messages: Messages,
        *,
        max_tokens: int | None,
        temperature: float | None,
        top_logprobs: int = 0,
        choices: Sequence[str] = (),
    ) -> Reply:
        """One completion of `messages`. None leaves a field out of the request.

        choices: if there are any, the reply is one of these texts. Raises protocol.Fault when all retries fail, and
        protocol.Refused when the model refuses this question.
        """
