"""Reading a judge's reply: a verdict is accepted only where it belongs; how sure it was, from log-probabilities."""

import asyncio
import math
import re
from collections.abc import Awaitable, Sequence
from typing import Literal, NamedTuple, TypeVar

from tasks.panel.chat import Reply

Place = Literal["last_line", "letter"]
Amount = TypeVar("Amount", int, float)

#: Alternatives asked for at each token: the most that all providers give.
TOP = 5

_LAST_LINE = re.compile(r"\[\[([ABC])\]\]")
_LETTER = re.compile(r"([ABC])\.?")
_GRID = 2.0**40


class Verdict(NamedTuple):
    letter: str  # A: the first shown is better, B: the second, C: neither
    at: int  # where the letter stands in the reply's text


def read_verdict(reply: Reply, place: Place) -> Verdict | None:
    """The verdict that stands alone on the reply's last line as [[A]], [[B]] or [[C]] (`last_line`), or that is the
    whole reply as A, B or C (`letter`). None for everything else, and for a reply that is no answer or was cut off."""
    if reply.error is not None or reply.text is None:
        return None
    text = reply.text.rstrip()
    start = text.rfind("\n") + 1 if place == "last_line" else 0
    start += len(text[start:]) - len(text[start:].lstrip())
    match = (_LAST_LINE if place == "last_line" else _LETTER).fullmatch(text, start)
    return None if match is None else Verdict(match[1], match.start(1))


def margin(reply: Reply, verdict: Verdict) -> float | None:
    """P(A) - P(B) at the verdict's token, of the mass on A, B and C; None where the server gave no log-probabilities.

    Swapping A and B changes the sign and nothing else.
    """
    masses = masses_at(reply, verdict.at, ("A", "B", "C"))
    if masses is None:
        return None
    a, b, c = masses
    return (a - b) / ((a + b) + c)


def masses_at(reply: Reply, at: int, symbols: Sequence[str]) -> tuple[float, ...] | None:
    """Probability mass of each symbol at the token that covers character `at` of the reply.

    A token counts for a symbol when it is the symbol, with blanks, brackets or a full stop around it. None where there
    are no log-probabilities, they do not spell the reply, or the token at `at` is not a symbol by itself.
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
            found = [
                math.fsum(math.exp(logprob) for other, logprob in token.top.items() if _bare(other) == symbol)
                for symbol in symbols
            ]
            return tuple(found) if math.fsum(found) > 0 else None
    return None


def _shift(spelt: str, text: str, at: int) -> int | None:
    """How much further on the character `at` of `text` stands in what the tokens spell.

    Servers strip blanks from replies, and spell characters that are cut by tokens in their own ways: then the last line
    alone must be spelt as it is.
    """
    lost = (len(spelt) - len(spelt.lstrip())) - (len(text) - len(text.lstrip()))
    if lost >= 0 and spelt[lost:].startswith(text):
        return lost
    line = text.rfind("\n", 0, at)  # with the end of the line before
    found = spelt.rfind(text[line:]) if line >= 0 else -1
    return found - line if found >= 0 else None


def _bare(token: str) -> str:
    return token.strip(" \n[].")


def probability(shown_ab: float, shown_ba: float) -> float:
    """P(a is better), a tie counted half, from both orders' margins (first shown minus second shown).

    On a grid of 2^-40, where p and 1 - p are exact: swapping a and b gives exactly 1 - p.
    """
    return 0.5 + round((shown_ab - shown_ba) / 4 * _GRID) / _GRID


async def both(first: Awaitable[Reply], second: Awaitable[Reply]) -> tuple[Reply, Reply]:
    """Both replies, asked for at once. When one faults, the other is waited for before the Fault is raised."""
    replies = await asyncio.gather(first, second, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies  # type: ignore[return-value]


def total(*amounts: Amount | None) -> Amount | None:
    """The sum of what is known; None where nothing is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known[1:], known[0]) if known else None
