"""Rows with `chosen` and `rejected`: TRL's formats, UltraFeedback-binarized, ShareGPT-like rows.

A response is text, one message, or the last message of a conversation. The prompt is `prompt`, what precedes the last
message, or another field that holds a prompt (`conversations`, `question`, `instruction`). Both responses must follow
the same conversation.
"""

from collections.abc import Iterable, Iterator, Mapping

from storage.conversations import (
    Message,
    is_empty,
    is_encoded,
    read_messages,
    read_text,
    refuse_unread_columns,
    with_system,
)
from storage.errors import UserError
from storage.prompts import PROMPT_FIELDS, parts_beside
from storage.rows import Row
from tasks.mixing.shapes.pair import OfflinePair, Reading, preference, prompt_in_row


def fits(row: Row, reading: Reading) -> bool:
    return "chosen" in row or "rejected" in row


def pairs(rows: Iterable[tuple[str, Row]], reading: Reading) -> Iterator[OfflinePair]:
    """One pair a row. Raises UserError for a row that is not one."""
    for where, row in rows:
        yield _pair(row, where, reading)


def _pair(row: Row, where: str, reading: Reading) -> OfflinePair:
    missing = [side for side in ("chosen", "rejected") if row.get(side) is None]
    if missing:
        raise _refuse(f"the row has no {' and no '.join(missing)}: it is not a pair of responses", where)
    refuse_unread_columns(row, where=where, remedy="remove the row or the column")
    (before, chosen), (other, rejected) = (_side(row[side], side, where) for side in ("chosen", "rejected"))
    explicit, is_text = _explicit_prompt(row, where, needed=not before)
    if is_text and not before and (parts := parts_beside(row, ["prompt"])):
        raise _refuse(
            f"the row has {', '.join(parts)} beside prompt, and irepo does not know whether the prompt includes it",
            where,
            "write the whole prompt in the field `prompt`, and leave the other fields out",
        )
    prompt = _conversation(explicit, before, is_text, "chosen", where)
    if prompt != _conversation(explicit, other, is_text, "rejected", where):
        raise _refuse("chosen and rejected do not start with the same turns", where)
    prompt = with_system(prompt, row, where=where)
    if prompt[-1]["role"] != "user":
        raise _refuse("the conversation before the responses does not end with a user's turn", where)
    return OfflinePair(where, prompt, chosen, rejected, *preference(row, where, reading))


def _explicit_prompt(row: Row, where: str, *, needed: bool) -> tuple[list[Message], bool]:
    """(the messages of the row's prompt, [] without one; whether it is text).

    needed: whether another field than `prompt` may hold it. UltraFeedback's `messages` hold the chosen reply too.
    """
    value = row.get("prompt")
    if is_empty(value):
        other = any(not is_empty(row.get(name)) for name in PROMPT_FIELDS)
        return (prompt_in_row(row, where), False) if needed and other else ([], False)
    if not isinstance(value, str):
        return read_messages(value, field="prompt", where=where), False
    text = read_text(value, field="prompt", where=where)
    if is_encoded(text):
        raise _refuse("the prompt is a conversation as JSON text", where, "write it as a list of messages")
    return [{"role": "user", "content": text}], True


def _side(value: object, field: str, where: str) -> tuple[list[Message], str]:
    """(the messages before the response, its text) of `chosen` or `rejected`."""
    if isinstance(value, str):
        text = read_text(value, field=field, where=where)
        if is_encoded(text):
            raise _refuse(f"{field} is a conversation as JSON text", where, "write it as a list of messages")
        return [], text
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        value = [value]  # one message, as in ShareGPT-like sets
    messages = read_messages(value, field=field, where=where)
    if not messages or messages[-1]["role"] != "assistant":
        raise _refuse(f"{field} does not end with the assistant's turn: the row is not a pair of responses", where)
    return messages[:-1], messages[-1]["content"]


def _conversation(
    explicit: list[Message], before: list[Message], is_text: bool, side: str, where: str
) -> list[Message]:
    """The prompt of one side. explicit: `prompt`; is_text: it was text, which may be any user's turn of `before`."""
    if not explicit and not before:
        raise _refuse(f"the row has no prompt, neither in `prompt` nor before the last turn of {side}", where)
    if not before or before == explicit:
        return before or explicit
    if explicit and not (is_text and explicit[0] in before):
        raise _refuse(f"the turns of {side} before its last one are not the prompt", where)
    return before


def _refuse(what: str, where: str, remedy: str = "write prompt, chosen and rejected as TRL does") -> UserError:
    return UserError(what, where=where, remedy=remedy)
