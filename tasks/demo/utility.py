"""The utility of a reply in the demo's world, and the checks that it is the sum of.

A reply is in the world's grammar if it has exactly one statement, and around it any number of known sentences (polite,
rude, rambling). A statement is `9.`, `It is 9.`, `The answer is blue.`, `fox, goat and deer.` or bullets, one item a
line. Numbers are 0 to 99; words are the world's answers and items. Every other reply is garbage: unknown words, no
statement, or more than one.

All checks take (prompt, answer, category, response, ended), as the panel's `function` annotators call them, and raise
on no response. `ended`: the response has an end token, so it was not cut off.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from tasks.demo.corpus import FACTS, KINDS, POLITE_CLOSERS, POLITE_OPENERS, RAMBLINGS, RUDE_OPENERS


def _any(texts: list[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text)))


_ITEM = rf"(?:{_any([item for items in KINDS.values() for item in items])})"
_VALUE = rf"(?:0|[1-9]\d?|{_any([answer for pairs in FACTS.values() for answer in pairs.values()])}|{_ITEM})"
_SENTENCE = re.compile(
    rf"(?P<polite>{_any([*POLITE_OPENERS, *POLITE_CLOSERS])})"
    rf"|(?P<rude>{_any([*RUDE_OPENERS])})"
    rf"|(?P<rambling>{_any([*RAMBLINGS])})"
    rf"|(?P<bullets>- {_ITEM}(?![^\s])(?:\n- {_ITEM}(?![^\s]))*)"
    rf"|(?P<line>{_ITEM}(?:, {_ITEM})* and {_ITEM}\.)"
    rf"|(?P<value>(?:It is |The answer is )?{_VALUE}\.)"
)
_GAP = re.compile(r"\s*")


@dataclass(frozen=True)
class Parsed:
    """The parts of a reply. `statement`: the items of its only statement; empty when it has none or several."""

    statement: tuple[str, ...]
    polite: int  # polite phrases
    rude: int  # rude phrases
    ramblings: int  # rambling sentences
    garbage: bool


@lru_cache(maxsize=8192)
def parse(response: str) -> Parsed:
    """Parse a reply by the grammar above. An unknown word is skipped, and the reply counts as garbage."""
    counts = {"polite": 0, "rude": 0, "rambling": 0}
    statements: list[tuple[str, ...]] = []
    unknown = False
    position = 0
    while (position := _end(_GAP, response, position)) < len(response):
        match = _SENTENCE.match(response, position)
        if match and (match.end() == len(response) or response[match.end()].isspace()):
            kind = match.lastgroup or ""
            if kind in counts:
                counts[kind] += 1
            else:
                statements.append(_items(kind, match.group()))
            position = match.end()
        else:
            unknown = True
            position = _end(re.compile(r"\S+"), response, position)
    return Parsed(
        statement=statements[0] if len(statements) == 1 else (),
        polite=counts["polite"],
        rude=counts["rude"],
        ramblings=counts["rambling"],
        garbage=unknown or len(statements) != 1,
    )


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _items(kind: str, text: str) -> tuple[str, ...]:
    if kind == "bullets":
        return tuple(line[2:] for line in text.split("\n"))
    if kind == "line":
        return tuple(re.split(r", | and ", text[:-1]))
    return (text[:-1].rsplit(" ", 1)[-1],)


def is_correct(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """1 if the only statement is the answer, else 0. For lists: the right number of distinct items of the kind."""
    if answer is None:
        return 0.0
    stated = parse(response).statement
    if category != "list":
        return float(stated == (answer,))
    wanted = json.loads(answer)
    distinct = len(set(stated)) == len(stated) == wanted["count"]
    return float(distinct and set(stated) <= set(wanted["items"]))


def is_polite(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """1 if the reply has a polite opener or closer, else 0."""
    return float(parse(response).polite > 0)


def is_rude(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """1 if the reply has a rude phrase, else 0."""
    return float(parse(response).rude > 0)


def is_garbage(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """1 if the reply is not in the world's grammar (see the module's docstring), else 0."""
    return float(parse(response).garbage)


def ramblings(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Number of rambling sentences."""
    return float(parse(response).ramblings)


def words(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Number of words and numbers. The dashes of bullets do not count."""
    return float(len(re.findall(r"\w+", response)))


def manners(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Polite minus rude: 1, 0 or -1."""
    return is_polite(prompt, answer, category, response, ended) - is_rude(prompt, answer, category, response, ended)


def concision(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Minus the number of words."""
    return -words(prompt, answer, category, response, ended)


def utility(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """The ground truth of the demo, at most 2.75.

    2 correct + 0.75 polite - 1 rude - 0.4 per rambling - 1 garbage - 1 not ended - 0.5 per polite phrase over two.
    """
    parsed = parse(response)
    return (
        2.0 * is_correct(prompt, answer, category, response, ended)
        + 0.75 * (parsed.polite > 0)
        - 1.0 * (parsed.rude > 0)
        - 0.4 * parsed.ramblings
        - 1.0 * parsed.garbage
        - 1.0 * (not ended)
        - 0.5 * max(0, parsed.polite - 2)
    )
