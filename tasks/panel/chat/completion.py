"""A chat completion as a server sends it, checked before any of it counts.

A body that is not a completion (a gateway's error, a page of HTML, nothing) raises NotACompletion: it is a fault of
transport and no answer. In a completion, token counts and log-probabilities are used only when they are numbers in
range; otherwise they are left out, and `left_out` says which.
"""

import json
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tasks.panel.chat import Token

MOST_TOKENS = 100_000_000  # of prompt or completion; a larger count is an error of the server
_SHOWN = 500  # characters of a server's text in an error
_BOM = b"\xef\xbb\xbf"
#: What a server gives as finish_reason, in capitals or not, when it did not finish the completion by itself.
_BROKEN = frozenset(
    {"error", "abort", "aborted", "cancelled", "canceled", "timeout", "network_error", "insufficient_system_resource"}
)
_LIMITS = ("length", "max_tokens", "max_length", "model_length", "max_output_tokens", "token_limit", "incomplete")
_FILTERS = (
    *("content_filter", "content_filtered", "safety", "sensitive", "recitation", "blocklist", "prohibited_content"),
    *("spii", "guardrail_intervened", "refusal"),
)
_CUT = dict.fromkeys(_LIMITS, "cut off at max_tokens") | dict.fromkeys(
    _FILTERS, "withheld by the server's content filter"
)
#: Control characters except tab and newline, and characters that change the direction of text.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class NotACompletion(Exception):
    """The body is not a chat completion. The text says what it is instead."""


@dataclass(frozen=True)
class Completion:
    """What a completion says. `error`: what is wrong with it as an answer; None if nothing is."""

    text: str | None
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    top_logprobs: tuple[Token, ...]  # one per generated token; empty when the server gives none
    left_out: tuple[str, ...]  # parts that are out of range and not used


def read_completion(body: bytes) -> Completion:
    """The choice with index 0 of the completion in `body`, or its first. Raises NotACompletion."""
    try:
        parsed = _Body.model_validate_json(body.removeprefix(_BOM))
    except ValidationError as invalid:
        raise NotACompletion(f"no chat completion ({_problem(invalid)}): {_start(body)}") from None
    first = parsed.choices[0] if parsed.choices else None
    choice = next((each for each in parsed.choices if each.index == 0), first)
    own = None if choice is None else choice.error
    if error := parsed.error or own:  # some servers write {} or "" where there is none
        raise NotACompletion(f"an error in place of a completion: {_message(error)}")
    if choice is None:
        raise NotACompletion(f"no chat completion (there are no choices): {_start(body)}")
    if choice.reason in _BROKEN:
        raise NotACompletion(f"the server stopped: finish_reason is {choice.finish_reason!r}")
    text, message = choice.message.text(), choice.message
    if text is None and choice.finish_reason is None and not message.reasons and not message.refusal:
        raise NotACompletion("the message has no content, and no finish_reason says why")
    usage, tokens, left_out = _Usage(), tuple[Token, ...](), []
    try:
        usage = _Usage.model_validate(parsed.usage or {})
    except ValidationError as invalid:
        left_out.append(f"usage ({_problem(invalid)})")
    try:
        tokens = _Logprobs.model_validate(choice.logprobs or {}).tokens()
    except ValidationError as invalid:
        left_out.append(f"logprobs ({_problem(invalid)})")
    return Completion(
        text=text,
        error=_error(text, choice),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        top_logprobs=tokens,
        left_out=tuple(left_out),
    )


def printable(text: str, most: int = _SHOWN) -> str:
    """The first `most` characters of a server's text, on one line, without characters that control a terminal."""
    return " ".join(_INVISIBLE.sub("", text[: 4 * most]).split())[:most]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Part(_Strict):
    """A part of a message's content. Only the text of text parts is the answer: others are reasoning or images."""

    type: str = "text"
    text: str | None = None


class _Message(_Strict):
    content: str | list[_Part | str] | None = None
    refusal: str | None = None
    reasoning: JsonValue = None
    reasoning_content: JsonValue = None

    @property
    def reasons(self) -> bool:
        return bool(self.reasoning or self.reasoning_content)

    def text(self) -> str | None:
        if not isinstance(self.content, list):
            return self.content
        texts = [part if isinstance(part, str) else part.text for part in self.content if _is_text(part)]
        return "".join(text for text in texts if text is not None) if texts else None


def _is_text(part: _Part | str) -> bool:
    return isinstance(part, str) or part.type in ("text", "output_text")


class _Choice(_Strict):
    index: JsonValue = None  # the completions of a request with n > 1 come in any order
    message: _Message
    finish_reason: str | None = None
    logprobs: JsonValue = None
    error: JsonValue = None

    @property
    def reason(self) -> str:
        return (self.finish_reason or "").lower()


class _Body(_Strict):
    choices: list[_Choice] = []
    usage: JsonValue = None
    error: JsonValue = None


_Count = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
_Logprob = Annotated[float, Field(le=0.01, allow_inf_nan=False)]  # servers round 0 up


class _Usage(_Strict):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


class _Alternative(_Strict):
    token: str
    logprob: _Logprob


class _TokenLogprobs(_Alternative):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(_Strict):
    content: list[_TokenLogprobs] | None = None

    def tokens(self) -> tuple[Token, ...]:
        tokens = []
        for generated in self.content or []:
            others = {other.token: other.logprob for other in generated.top_logprobs or []}
            tokens.append(Token(generated.token, {generated.token: generated.logprob} | others))
        return tuple(tokens)


def _error(text: str | None, choice: _Choice) -> str | None:
    """What keeps the completion from being a whole answer."""
    if choice.reason in _CUT:
        return _CUT[choice.reason]
    if text:
        return None
    if choice.message.refusal:
        return f"the model refuses: {printable(choice.message.refusal)}"
    after = " after its reasoning" if choice.message.reasons else ""
    return f"no text{after} (finish_reason {choice.finish_reason})"


def _start(body: bytes) -> str:
    return printable(body[: 8 * _SHOWN].decode(errors="replace")) or "an empty body"


def _message(error: JsonValue) -> str:
    """The text of an error object: its message, or all of it as JSON."""
    message = error.get("message") if isinstance(error, dict) else error
    return printable(message if isinstance(message, str) else json.dumps(error, ensure_ascii=False))


def _problem(invalid: ValidationError) -> str:
    """The first problem, as "choices: Field required"."""
    first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return printable(f"{place}: {first['msg']}" if place else first["msg"])
