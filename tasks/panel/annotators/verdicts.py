"""Parsing a judge's reply: the verdict, accepted only in its place, and its probability from log-probabilities."""

import asyncio
import math
import re
from collections.abc import Awaitable, Sequence
from typing import Literal, NamedTuple, TypeVar

from tasks.panel.annotators.reply_text import in_brackets, last_line, whole_answer
from tasks.panel.chat import Reply

VerdictPlace = Literal["last_line", "letter"]
Amount = TypeVar("Amount", int, float)

#: Alternatives requested per token: the largest number that all providers allow.
TOP = 5

#: What a verdict may look like, by its place; with `constrained` the whole reply is one of these.
CHOICES: dict[VerdictPlace, tuple[str, ...]] = {"last_line": ("[[A]]", "[[B]]", "[[C]]"), "letter": ("A", "B", "C")}

_LAST_LINE = in_brackets("[ABC]")
_LETTER = re.compile(r"[*_~`\s]*([ABC])[*_~`\s]*\.?[*_~`\s]*")
_GRID = 2.0**40


class Verdict(NamedTuple):
    letter: str  # A: the response shown first is better, B: the second, C: neither
    at: int  # index of the letter in the reply's text


def read_verdict(reply: Reply, place: VerdictPlace) -> Verdict | None:
    """The verdict: [[A]], [[B]] or [[C]] alone on the last line (`last_line`), or A, B or C as the whole reply
    (`letter`), after the judge's reasoning. Emphasis around it is not text. None for any other text, and for a reply
    that failed or was cut off."""
    match = last_line(reply, _LAST_LINE) if place == "last_line" else whole_answer(reply, _LETTER)
    return None if match is None else Verdict(match[1], match.start(1))


def margin(reply: Reply, verdict: Verdict) -> float | None:
    """P(A) - P(B) at the verdict's token, normalised over A, B and C; None if the server gave no log-probabilities.

    Swapping A and B changes the sign and nothing else.
    """
    masses = masses_at(reply, verdict.at, ("A", "B", "C"))
    if masses is None:
        return None
    a, b, c = masses
    return (a - b) / ((a + b) + c)


def masses_at(reply: Reply, at: int, symbols: Sequence[str]) -> tuple[float, ...] | None:
    """Probability mass of each symbol at the token that covers character `at` of the reply.

    A token counts for a symbol if it is the symbol with spaces, brackets, emphasis or full stops around it. None if
    there are no log-probabilities, the tokens do not spell the reply, or the token at `at` is not a symbol by itself.
    """
    tokens, text = reply.top_logprobs, reply.text or ""
    shift = _shift("".join(token.text for token in tokens), text, at) if tokens else None
    if shift is None:
        return None
    end = -shift
    for token in tokens:
        end += len(token.text)
        if at < end:
            if _bare(token.text) not in symbols:
                return None
            masses = [
                math.fsum(math.exp(logprob) for other, logprob in token.top.items() if _bare(other) == symbol)
                for symbol in symbols
            ]
            return tuple(masses) if math.fsum(masses) > 0 else None
    return None


def _shift(spelled: str, text: str, at: int) -> int | None:
    """Offset from `text` to the tokens' concatenation `spelled` at character `at`; None if they do not match.

    Servers strip white space from replies, and differ in how they write a character that spans several tokens. If the
    whole text does not match, matching its last line is enough.
    """
    stripped = (len(spelled) - len(spelled.lstrip())) - (len(text) - len(text.lstrip()))
    if stripped >= 0 and spelled[stripped:].startswith(text):
        return stripped
    line = text.rfind("\n", 0, at)  # the newline before the last line
    start = spelled.rfind(text[line:]) if line >= 0 else -1
    return start - line if start >= 0 else None


def _bare(token: str) -> str:
    return token.strip(" \n[]().*_~`")


def probability(shown_ab: float, shown_ba: float) -> float:
    """P(a is better), a tie counting half, from the margins of both orders (first shown minus second shown).

    Rounded to multiples of 2^-40, so that 1 - p is exact: swapping a and b gives exactly 1 - p.
    """
    return 0.5 + round((shown_ab - shown_ba) / 4 * _GRID) / _GRID


async def await_both(first: Awaitable[Reply], second: Awaitable[Reply]) -> tuple[Reply, Reply]:
    """Both replies, requested at the same time. If one raises a Fault, it is raised after the other has ended."""
    replies = await asyncio.gather(first, second, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies  # type: ignore[return-value]


def sum_known(*amounts: Amount | None) -> Amount | None:
    """The sum of the amounts that are not None; None if all are."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known[1:], known[0]) if known else None
