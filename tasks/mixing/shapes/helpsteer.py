"""The prompt of HelpSteer's rows: text with marks between turns, or a conversation in `context`."""

import re

from storage.conversations import Message, is_empty
from storage.errors import UserError
from storage.rows import Row
from tasks.mixing.shapes.pair import prompt_in_row

_MARK = "<extra_id_1>"
_TURN = re.compile(rf"\n?{re.escape(_MARK)}(User|Assistant)\n")


def prompt_of_row(row: Row, where: str) -> list[Message]:
    """The messages of the row's prompt. Raises UserError for a row without one."""
    if not is_empty(row.get("context")) and is_empty(row.get("prompt")):
        return prompt_in_row(row, where, ["context"])
    messages = prompt_in_row(row, where)
    if len(messages) > 1 or _MARK not in messages[-1]["content"]:
        return messages
    first, *parts = _TURN.split(messages[-1]["content"])
    turns = [{"role": "user", "content": first}]
    turns += [{"role": speaker.lower(), "content": said} for speaker, said in zip(parts[::2], parts[1::2], strict=True)]
    expected = ["user", "assistant"] * len(turns)
    if any(_MARK in turn["content"] for turn in turns) or [t["role"] for t in turns] != expected[: len(turns)]:
        raise UserError(
            f"the turns in the prompt, marked by {_MARK}, cannot be told apart",
            where=where,
            remedy="write the prompt as a list of messages",
        )
    if turns[-1]["role"] != "user":
        raise UserError("the prompt does not end with a user's turn", where=where, remedy="fix or remove the row")
    return turns
