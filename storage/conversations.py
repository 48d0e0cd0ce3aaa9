"""Values of rows to texts and messages, read as they are or refused: nothing is turned into text.

A conversation is a list of {role, content} messages (TRL, OpenAI) or of {from, value} turns (ShareGPT). Content is
text, or a list of text parts, which follow one another without a separator, as chat templates join them.
"""

import datetime
import decimal
import json
import math
import re
import string
from collections.abc import Mapping, Sequence

from storage.errors import UserError

Message = dict[str, str]

#: Fields that hold a conversation.
CONVERSATION_FIELDS = ("messages", "conversations", "conversation")
#: ShareGPT's names of speakers.
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
}
_SYSTEM = ("system", "system_prompt", "system_message")
#: Roles of messages. Chat templates write others in ways of their own, or leave the message out.
_ROLES = ("system", "user", "assistant")
_MEDIA = ("images", "image", "videos", "video", "audio", "audios", "files", "attachments")
#: Fields of a message that would be lost: a conversation with one of them is refused.
_UNREAD = (
    *("tool_calls", "tool_call_id", "function_call", "reasoning_content", "reasoning", "thinking", "refusal"),
    *_MEDIA,
)
#: Columns of a row that a reader of its conversation would need; a row with one of them is refused.
_UNREAD_COLUMNS = ("tools", "functions", "documents", "chat_template_kwargs", *_MEDIA)
#: How a printed list of messages begins: "[{'role': 'user', ...", also with the content first.
_PRINTED = re.compile(
    r"\s*\[\s*\{\s*(?:'content'\s*:.*'role'|'role'|'value'\s*:.*'from'|'from')\s*:\s*'"
    r"(?:system|user|assistant|human|gpt)'",
    re.DOTALL,
)
#: White space, and characters that show nothing.
_NO_WIDTH = string.whitespace + "\0\x85\xa0\u2028\u2029\u3000\u200b\u200c\u200d\u2060\ufeff"
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    ((bytes, bytearray), "bytes"),
    ((datetime.date, datetime.time, datetime.timedelta), "a date or time"),
    (decimal.Decimal, "a decimal number"),
    ((int, float), "a number"),
    (Mapping, "an object"),
    (Sequence, "a list"),
)


def conversation_text(messages: Sequence[Mapping[str, str]]) -> str:
    """What a person reads: the text of a single message, or all messages with their roles."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def is_empty(value: object) -> bool:
    """Whether a field holds nothing: null, an empty text, list or object, or blank text."""
    return value is None or (isinstance(value, str | Sequence | Mapping) and not value) or _blank(value)


def _blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip(_NO_WIDTH)


def described(value: object) -> str:
    """What a value is, for error messages: "a list"."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), f"a {type(value).__name__}")


def read_text(value: object, *, field: str, where: str) -> str:
    """The text in a field. Raises UserError for any other value, and for text that UTF-8 cannot hold."""
    if not isinstance(value, str):
        raise UserError(
            f"the field {field} is {described(value)}, not text", where=where, remedy="write it as text, or fix the row"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the field {field} has half of a surrogate pair ({value[error.start]!a}), which is not a character",
            where=where,
            remedy="write the whole character, or remove it",
        ) from None
    return value


def read_label(value: object, *, field: str, where: str, remedy: str) -> str | None:
    """The text or finite number in a field, as text; None for null. Raises UserError for any other value."""
    if value is None:
        return None
    if isinstance(value, str):
        return read_text(value, field=field, where=where)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"the field {field} is {described(value)}, not text or a number", where=where, remedy=remedy)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"the field {field} is {value}, not a finite number", where=where, remedy=remedy)
    return json.dumps(value)


def read_messages(value: object, *, field: str, where: str) -> list[Message]:
    """The {role, content} messages of a conversation. Raises UserError when it is not one, or has other content."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise UserError(
            f"the field {field} is {described(value)}, not a list of messages",
            where=where,
            remedy='write [{"role": "user", "content": "..."}, ...]',
        )
    return [_message(each, f"message {number} of {field}", where) for number, each in enumerate(value, start=1)]


def _message(value: object, name: str, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise _no_message(f"{name} is {described(value)}", where)
    lost = [field for field in _UNREAD if not is_empty(value.get(field))]
    if lost:
        raise UserError(
            f"{name} has {', '.join(lost)}, which irepo does not read",
            where=where,
            remedy="remove the row, or write it as text messages only",
        )
    if isinstance(value.get("role"), str):
        if value["role"] not in _ROLES:
            raise UserError(
                f"{name} has the role {value['role']!a}, which irepo does not read",
                where=where,
                remedy=f"use one of: {', '.join(_ROLES)}; or remove the row",
            )
        return {"role": value["role"], "content": _content(value.get("content"), f"content of {name}", where)}
    if not isinstance(value.get("from"), str):
        raise _no_message(f"{name} has neither role and content nor from and value", where)
    if value["from"] not in _SPEAKERS:
        raise UserError(
            f"{name} is from {value['from']!r}, which is no known speaker",
            where=where,
            remedy=f"use one of: {', '.join(_SPEAKERS)}",
        )
    return {"role": _SPEAKERS[value["from"]], "content": _content(value.get("value"), f"value of {name}", where)}


def _no_message(what: str, where: str) -> UserError:
    return UserError(f"{what}, not a message", where=where, remedy='write {"role": "user", "content": "..."}')


def _content(value: object, field: str, where: str) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return read_text(value, field=field, where=where)
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or kind != "text":
            raise UserError(
                f"the {field} has a part that is not text: {kind or described(part)}",
                where=where,
                remedy="remove the row, or write its content as text",
            )
        texts.append(read_text(part.get("text"), field=f"text in the {field}", where=where))
    return "".join(texts)


def read_training_conversation(row: Mapping[str, object], *, where: str) -> list[Message]:
    """The messages of a row to tune a policy on: a conversation, `prompt` and `completion`, or Alpaca's fields.

    Raises UserError for a row of another form, and for content that is not text.
    """
    refuse_unread_columns(row, where=where, remedy="remove the row or the column")
    name = next((name for name in CONVERSATION_FIELDS if not is_empty(row.get(name))), None)
    if name is not None:
        return with_system(read_messages(row[name], field=name, where=where), row, where=where)
    if "prompt" in row and "completion" in row:
        asked = _turns(row["prompt"], "user", field="prompt", where=where)
        return with_system(
            [*asked, *_turns(row["completion"], "assistant", field="completion", where=where)], row, where=where
        )
    if "instruction" in row and "output" in row:
        fields = [field for field in ("instruction", "input") if not is_empty(row.get(field))]
        asked = [{"role": "user", "content": "\n\n".join(read_text(row[f], field=f, where=where) for f in fields)}]
        return with_system([*asked, *_turns(row["output"], "assistant", field="output", where=where)], row, where=where)
    raise UserError(
        f"the row has no conversation to train on; it has {', '.join(row) or 'no fields'}",
        where=where,
        remedy=f"write {' or '.join(CONVERSATION_FIELDS)}, or prompt and completion, or instruction and output",
    )


def _turns(value: object, role: str, *, field: str, where: str) -> list[Message]:
    """The messages in a field, or its text as one message of `role`."""
    if not isinstance(value, str):
        return read_messages(value, field=field, where=where)
    return [{"role": role, "content": read_text(value, field=field, where=where)}]


def refuse_unread_columns(row: Mapping[str, object], *, where: str, remedy: str) -> None:
    """Raises UserError when the row has tools, images or the like beside its conversation."""
    unread = [name for name in _UNREAD_COLUMNS if not is_empty(row.get(name))]
    if unread:
        raise UserError(f"the row has {', '.join(unread)}, which irepo does not read", where=where, remedy=remedy)


def with_system(
    messages: list[Message], row: Mapping[str, object], *, default: str | None = None, where: str
) -> list[Message]:
    """The conversation with a system message: its own, that in the row's field of its own, or `default`.

    Raises UserError when the row has two different ones.
    """
    own = next((read_text(row[name], field=name, where=where) for name in _SYSTEM if not is_empty(row.get(name))), None)
    if messages and messages[0]["role"] == "system":
        if own not in (None, messages[0]["content"]):
            raise UserError(
                "the row has two system messages: one in its conversation, one in a field of its own",
                where=where,
                remedy="remove one of them",
            )
        return messages
    first = default if own is None else own
    return messages if first is None else [{"role": "system", "content": first}, *messages]


def is_encoded(text: str) -> bool:
    """Whether a text is a list of messages written as JSON, or as Python, pandas or numpy print one."""
    if _PRINTED.match(text):
        return True
    if not text.lstrip().startswith("[") or not any(f'"{key}"' in text for key in ("role", "from")):
        return False
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return all(isinstance(turn, dict) and str(turn.get("role", turn.get("from"))) in _SPEAKERS for turn in turns)
