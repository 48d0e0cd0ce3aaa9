"""A chat model behind any OpenAI-compatible endpoint, with retries, a rate limit and a price. Its key is never stored.

Only transport faults are retried. An answer that cannot be parsed is not retried, and its text is kept.
"""

import asyncio
import email.utils
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from storage.errors import UserError
from tasks.panel.annotators.protocol import Fault
from tasks.panel.chat import Messages, Reply, Token, faults_met
from tasks.panel.chat.rate import RateLimit
from tasks.panel.chat.settings import ChatSettings

_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FIRST_WAIT = 0.5  # seconds before the first retry; doubles each time
_LONGEST_WAIT = 60.0
_KEPT = 2000  # characters kept of an answer that is not a chat completion


class Endpoint:
    """POST {base_url}/chat/completions. Raises UserError when the key's environment variable is not set."""

    def __init__(self, name: str, settings: ChatSettings) -> None:
        self._name = name
        self._settings = settings
        self._url = f"{settings.base_url.rstrip('/')}/chat/completions"
        self._client: httpx.AsyncClient | None = None
        self._key: str | None = None
        _read_key(name, settings.api_key_env)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        settings = self._settings
        self._key = _read_key(self._name, settings.api_key_env)
        self._gate = asyncio.Semaphore(settings.concurrency)
        self._rate_limit = RateLimit(settings.per_minute)
        limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        async with httpx.AsyncClient(timeout=settings.timeout, limits=limits, headers=headers) as self._client:
            yield
        self._client = self._key = None

    async def chat(self, messages: Messages, *, max_tokens: int, temperature: float, top_logprobs: int = 0) -> Reply:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": temperature,
        } | self._settings.extra_body  # fmt: skip
        if top_logprobs:
            body |= {"logprobs": True, "top_logprobs": top_logprobs}
        return await self._ask(body)

    async def _ask(self, body: dict[str, Any]) -> Reply:
        assert self._client is not None, "chat() needs connected()"
        spent = 0.0
        error = ""
        for attempt in range(self._settings.retries + 1):
            wait = _FIRST_WAIT * 2**attempt
            async with self._gate:
                await self._rate_limit.turn()
                started = time.monotonic()
                try:
                    answer = await self._client.post(self._url, json=body)
                except httpx.TransportError as fault:
                    spent += time.monotonic() - started
                    faults_met.get([]).append(type(fault).__name__)
                    error = self._without_key(f"{type(fault).__name__}: {fault}")
                else:
                    spent += time.monotonic() - started
                    if answer.status_code == 200:
                        return self._read(answer, spent)
                    faults_met.get([]).append(f"HTTP {answer.status_code}")
                    error = f"HTTP {answer.status_code}: {self._without_key(answer.text)[:_KEPT]}"
                    if answer.status_code not in _TRANSIENT:
                        break
                    wait = _retry_after(answer, wait)
            if attempt < self._settings.retries:
                await asyncio.sleep(min(wait, _LONGEST_WAIT))
        raise Fault(error, spent)

    def _read(self, answer: httpx.Response, seconds: float) -> Reply:
        """The text of a chat completion; any other answer is an error that keeps the answer's text."""
        tokens: int | None = None
        cost: float | None = None
        try:
            body: Any = answer.json()
            usage = body.get("usage") or {}
            prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if isinstance(prompt, int) and isinstance(completion, int):
                tokens = prompt + completion
                cost = self._settings.price.of(prompt, completion) if self._settings.price else None
            choice = body["choices"][0]
            text = choice["message"]["content"]
            if not isinstance(text, str):
                raise TypeError("no text")
            cut = "cut off at max_tokens" if choice.get("finish_reason") == "length" else None
            top = _top_logprobs(choice)
        except (ValueError, LookupError, TypeError, AttributeError):
            kept = f"not a chat completion: {self._without_key(answer.text)[:_KEPT]}"
            return Reply(None, kept, seconds, tokens, cost)
        return Reply(self._without_key(text), cut, seconds, tokens, cost, top)

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key in error messages, either plain or escaped as JSON."""
        if not self._key:
            return text
        return text.replace(self._key, "[key]").replace(json.dumps(self._key)[1:-1], "[key]")


def _top_logprobs(choice: dict[str, Any]) -> tuple[Token, ...]:
    """The alternatives of each generated token; empty if the server gives none.

    Raises LookupError, TypeError, ValueError or AttributeError for another shape.
    """
    content = (choice.get("logprobs") or {}).get("content") or []
    return tuple(
        Token(
            token["token"],
            {token["token"]: float(token["logprob"])}
            | {other["token"]: float(other["logprob"]) for other in token.get("top_logprobs") or []},
        )
        for token in content
    )


def _retry_after(answer: httpx.Response, wait: float) -> float:
    """Seconds until the time in the Retry-After header (a number or a date), else `wait`."""
    header = answer.headers.get("retry-after", "").strip()
    if header.isdecimal():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return wait
    return max(0.0, moment.timestamp() - time.time())


def _read_key(name: str, variable: str | None) -> str | None:
    """The key in the environment variable, or None without a variable. Raises UserError when it is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {variable} is not set",
            where=f"annotators.{name}.api_key_env",
            remedy=f"export {variable}=<key>, or remove api_key_env if the server needs no key",
        )
    return key
