"""A chat model behind any OpenAI-compatible endpoint, with retries, a rate limit and a price. Its key is never stored.

Faults of transport are retried: no connection, no whole reply in time, a status that means "later", a reply that is no
completion. A completion that cannot be parsed as a verdict is an answer: it is not retried, and its text is kept.
"""

import asyncio
import json
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import httpx

from storage.errors import UserError
from tasks.panel.annotators.protocol import Fault, Refused
from tasks.panel.chat import Messages, Reply, faults_met
from tasks.panel.chat.completion import Completion, NotACompletion, printable, read_completion
from tasks.panel.chat.rate import RateLimit, retry_after
from tasks.panel.chat.settings import ChatSettings
from tasks.panel.chat.transport import HttpReply, TransportError, request

log = logging.getLogger("irepo")

_REFUSED = frozenset({400, 413, 422})  # this request, not the server: an error of one question
_LATER = frozenset({408, 409, 425, 429})  # and all of 5xx except these two
_NEVER = frozenset({501, 505})
_FIRST_WAIT = 0.5  # seconds before the first retry; doubles each time
_LONGEST_WAIT = 60.0
_BASE_BYTES, _BYTES_PER_TOKEN = 2**20, 2**12  # of a reply: log-probabilities take about 1 KiB per token
_MANY_TOKENS = 2**13  # of a reply, where max_tokens sets no limit


class Endpoint:
    """POST {base_url}/chat/completions. Raises UserError when the key's environment variable is not usable."""

    def __init__(self, name: str, settings: ChatSettings) -> None:
        self._name = name
        self._settings = settings
        self._url = f"{settings.base_url.rstrip('/')}/chat/completions"
        self._client: httpx.AsyncClient | None = None
        self._key: str | None = None
        self._warned: set[str] = set()
        read_key(name, settings.api_key_env)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        settings = self._settings
        self._key = read_key(self._name, settings.api_key_env)
        self._gate = asyncio.Semaphore(settings.concurrency)
        self._rate_limit = RateLimit(settings.per_minute)
        async with open_client(settings, self._key) as self._client:
            yield
        self._client = self._key = None

    async def chat(
        self,
        messages: Messages,
        *,
        max_tokens: int | None,
        temperature: float | None,
        top_logprobs: int = 0,
        choices: Sequence[str] = (),
    ) -> Reply:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": temperature,
        } | self._settings.extra_body  # fmt: skip
        if top_logprobs:
            body |= {"logprobs": True, "top_logprobs": top_logprobs}
        if choices:
            body |= {"structured_outputs": {"choice": list(choices)}}
        return await self._ask({name: value for name, value in body.items() if value is not None})

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
                    reply = await request(
                        self._client,
                        "POST",
                        self._url,
                        json=body,
                        seconds=self._settings.timeout,
                        most_bytes=_BASE_BYTES + _BYTES_PER_TOKEN * (body.get("max_tokens") or _MANY_TOKENS),
                    )
                    if 200 <= reply.status < 300:
                        completion = read_completion(self._bytes_without_key(reply.body))
                        return self._reply(completion, spent + time.monotonic() - started)
                    kind, error = f"HTTP {reply.status}", self._status(reply)
                    if not _is_transient(reply.status):
                        faults_met.get([]).append(kind)
                        raise self._final(reply.status, error, spent + time.monotonic() - started)
                    wait = retry_after(reply.headers, wait)
                except TransportError as fault:
                    kind, error = fault.kind, self._without_key(str(fault))
                    if fault.lasting:
                        faults_met.get([]).append(kind)
                        raise Fault(error, spent + time.monotonic() - started, lasting=True) from None
                except NotACompletion as fault:
                    kind, error = "no completion", str(fault)
                spent += time.monotonic() - started
                faults_met.get([]).append(kind)
            if attempt < self._settings.retries:
                await asyncio.sleep(min(wait, _LONGEST_WAIT))
        raise Fault(error, spent)

    def _reply(self, completion: Completion, seconds: float) -> Reply:
        for part in completion.left_out:
            name = part.partition(" ")[0]
            if name not in self._warned:
                self._warned.add(name)
                log.warning("%s: its server sends unusable %s: not counted", self._name, part)
        prompt, generated = completion.prompt_tokens, completion.completion_tokens
        if (prompt is None or generated is None) and "usage" not in self._warned:
            self._warned.add("usage")
            log.warning("%s: its server sends no token counts: its answers cost nothing in panel.budget", self._name)
        tokens, cost = None, None
        if prompt is not None and generated is not None:
            tokens = prompt + generated
            cost = self._settings.price.of(prompt, generated) if self._settings.price else None
        text = None if completion.text is None else self._without_key(completion.text)
        error = None if completion.error is None else self._without_key(completion.error)
        return Reply(text, error, seconds, tokens, cost, completion.top_logprobs)

    def _status(self, reply: HttpReply) -> str:
        """What a reply with an error status says."""
        text = printable(self._bytes_without_key(reply.body).decode(errors="replace"))
        if 300 <= reply.status < 400:
            text = f"a redirect to {printable(reply.headers.get('location', 'nowhere'))}, which is not followed"
        return self._without_key(f"HTTP {reply.status}: {text}")

    def _final(self, status: int, error: str, seconds: float) -> Fault | Refused:
        """The exception for a status that asking again will not change."""
        return Refused(error, seconds) if status in _REFUSED else Fault(error, seconds, lasting=True)

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key in error messages, either plain or escaped as JSON."""
        if not self._key:
            return text
        return text.replace(self._key, "[key]").replace(json.dumps(self._key)[1:-1], "[key]")

    def _bytes_without_key(self, body: bytes) -> bytes:
        """The same for a body that is not parsed yet: what is cut out of it later then holds no part of the key."""
        if not self._key:
            return body
        return body.replace(self._key.encode(), b"[key]").replace(json.dumps(self._key)[1:-1].encode(), b"[key]")


def open_client(settings: ChatSettings, key: str | None) -> httpx.AsyncClient:
    """A client for the endpoint. Its time-outs are those of `transport.request`.

    Raises UserError when the variables for proxies or certificates cannot be used.
    """
    limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
    headers = {"Accept-Encoding": "gzip, deflate"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        verify = _certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        return httpx.AsyncClient(timeout=None, limits=limits, headers=headers, verify=verify)
    except (ValueError, ImportError, OSError) as error:  # httpx reads them here
        raise UserError(
            f"the environment does not allow requests: {error}",
            where="HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE, SSL_CERT_DIR",
            remedy="correct the variable, or unset it",
        ) from None


@cache
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """The certificates that httpx takes with these values of its variables.

    Reading them takes 0.1 s. With one read per judge, the replies to a panel's first questions would wait for that.
    """
    return httpx.create_ssl_context()


def read_key(name: str, variable: str | None) -> str | None:
    """The key in the environment variable, or None without a variable. Raises UserError when it is not usable."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {variable} is not set",
            where=f"annotators.{name}.api_key_env",
            remedy=f"export {variable}=<key>, or remove api_key_env if the server needs no key",
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"the environment variable {variable} holds characters that no key has",
            where=f"annotators.{name}.api_key_env",
            remedy=f"export {variable}=<key> with the key alone, on one line",
        )
    return key


def _is_transient(status: int) -> bool:
    return status in _LATER or (500 <= status < 600 and status not in _NEVER)
