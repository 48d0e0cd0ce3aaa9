"""Rows whose `chosen` and `rejected` are whole conversations as one text, as in HH-RLHF.

Turns begin with two line ends and "Human:" or "Assistant:". The prompt is all turns before the last one, which must be
the same on both sides. Any text can hold such words, so the settings must ask for it.
"""

import re
from collections.abc import Iterable, Iterator

from storage.conversations import Message, is_empty
from storage.errors import UserError
from storage.rows import Row
from tasks.mixing.shapes.pair import OfflinePair, Reading, preference

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def fits(row: Row, reading: Reading) -> bool:
    sides = [row.get("chosen"), row.get("rejected")]
    texts = [side for side in sides if isinstance(side, str)]
    return is_empty(row.get("prompt")) and len(texts) == 2 and all(map(_TURN.match, texts))


def pairs(rows: Iterable[tuple[str, Row]], reading: Reading) -> Iterator[OfflinePair]:
    """One pair a row.

    Raises UserError where the settings do not ask for it, for a text of other turns, and for sides that start with
    different turns.
    """
    for where, row in rows:
        if not reading.transcripts:
            raise UserError(
                "the row has no prompt, and chosen and rejected hold the turns of 'Human:' and 'Assistant:'",
                where=where,
                remedy=f"have the turns read: {reading.setting}.transcripts=true; or write prompt, chosen and rejected",
            )
        chosen, rejected = (_turns(row[side], side, where) for side in ("chosen", "rejected"))
        if chosen[:-1] != rejected[:-1]:
            raise _refuse("chosen and rejected do not start with the same turns", where)
        replies = (chosen[-1]["content"], rejected[-1]["content"])
        yield OfflinePair(where, chosen[:-1], *replies, *preference(row, where, reading))


def _turns(text: str, side: str, where: str) -> list[Message]:
    _, *parts = _TURN.split(text)
    said = zip(parts[::2], parts[1::2], strict=True)
    turns = [{"role": _ROLES[speaker], "content": words.strip()} for speaker, words in said]
    if len(turns) < 2 or turns[-1]["role"] != "assistant" or turns[-2]["role"] != "user":
        raise _refuse(f"{side} does not end with a turn of Human and one of Assistant", where)
    return turns


def _refuse(what: str, where: str) -> UserError:
    return UserError(what, where=where, remedy="fix or remove the row, or write prompt, chosen and rejected")
