"""Prompts from rows: what of a row is the prompt, and which prompts are held out by hash."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from storage.conversations import (
    CONVERSATION_FIELDS,
    Message,
    is_empty,
    is_encoded,
    read_label,
    read_messages,
    read_text,
    refuse_unread_columns,
    with_system,
)
from storage.errors import UserError
from storage.files import canonical_json
from storage.rows import Row

#: The prompt's field where none is configured: the first of these that the row has.
PROMPT_FIELDS = (*CONVERSATION_FIELDS, "prompt", "question", "instruction")
#: Fields that may be a part of the prompt. Which ones are, the user has to say.
_PARTS = (
    *("input", "inputs", "context", "contexts", "passage", "passages", "document", "documents", "article"),
    *("paragraph", "table", "choices", "options", "history"),
)
_NAME_FIELDS = "name the fields that make up the prompt: prompts.prompt_fields=[...]"


@dataclass
class PromptCounts:
    """What was read. rows: that were looked at. repeated: with the prompt of an earlier row, left out. conflicting:
    those of them with another answer than the first row of the prompt."""

    rows: int = 0
    repeated: int = 0
    conflicting: int = 0


def prompt_id(messages: Sequence[Mapping[str, str]]) -> str:
    """First 16 hex digits of the sha256 of a prompt's messages: equal prompts have equal ids."""
    return hashlib.sha256(canonical_json([dict(m) for m in messages]).encode()).hexdigest()[:16]


def is_heldout(identifier: str, share: float) -> bool:
    """Whether a prompt is held out. Depends on its id alone: the same for every run, file order and seed."""
    return int(identifier[:8], 16) < share * 2**32


def each_prompt(
    source: Iterable[tuple[str, Row]],
    *,
    where: str,
    prompt_fields: Sequence[str] = (),
    answer_field: str | None = "answer",
    reference_field: str | None = "reference",
    category_field: str | None = "category",
    system: str | None = None,
    limit: int | None = None,
    counts: PromptCounts | None = None,
) -> Iterator[dict[str, object]]:
    """Rows of storage.schemas.PROMPTS from (where, row) pairs, in their order; repeated prompts appear once.

    Keeps only the ids and answers of earlier rows in memory. `counts` is added to.

    `prompt_fields` are texts, joined by a blank line (empty ones skipped), or one list of messages; dotted names reach
    inside ('instances.0.input'). Without them each row's prompt is its first field of PROMPT_FIELDS, for Alpaca's rows
    with `input`. Answers, references and categories are texts or numbers; a field that is None is not read. Raises
    UserError (file, line) for a row without a prompt, for a value of another kind, for a field of `prompt_fields` that
    no row has, and when there are no rows.
    """
    counts = PromptCounts() if counts is None else counts
    seen: dict[str, int] = {}  # hash of the answer by prompt
    missing = set(prompt_fields)
    for place, row in source:
        if limit is not None and len(seen) >= limit:
            break
        counts.rows += 1
        missing = {field for field in missing if _value(row, field) is None}
        messages = prompt_of(row, place, prompt_fields, system)
        answer = _label(row, answer_field, "answer_field", place)
        identifier = prompt_id(messages)
        if identifier in seen:
            counts.repeated += 1
            counts.conflicting += seen[identifier] != hash(answer)
            continue
        seen[identifier] = hash(answer)
        yield {
            "prompt_id": identifier,
            "messages": messages,
            "answer": answer,
            "reference": _label(row, reference_field, "reference_field", place),
            "category": _label(row, category_field, "category_field", place),
            "source": place,
        }
    if not seen:
        raise UserError("the file has no prompts", where=where, remedy="name a file with at least one row")
    if missing:
        raise UserError(
            f"no row has the field {', '.join(sorted(missing))}", where=where, remedy="correct prompts.prompt_fields"
        )


def prompt_of(row: Row, where: str, fields: Sequence[str] = (), system: str | None = None) -> list[Message]:
    """The messages of a row's prompt, up to the last user's turn.

    system: put before a conversation without a system message. Raises UserError as `each_prompt`.
    """
    if fields:
        messages = _joined({field: _value(row, field) for field in fields}, row, where)
        return with_system(messages, {}, default=system, where=where)
    return with_system(_found(row, where), row, default=system, where=where)


def _found(row: Row, where: str) -> list[Message]:
    """The prompt of a row by the names that its fields have."""
    name = next((name for name in PROMPT_FIELDS if not is_empty(row.get(name))), None)
    if name is None:
        raise _no_prompt(row, where, PROMPT_FIELDS)
    refuse_unread_columns(row, where=where, remedy=f"remove the row, or {_NAME_FIELDS}")
    used = [name]
    if name == "instruction" and not is_empty(row.get("input")):  # Alpaca's format
        used.append("input")
    if name in CONVERSATION_FIELDS:
        return _up_to_the_user(read_messages(row[name], field=name, where=where), where)
    parts = parts_beside(row, used)
    if parts:
        raise UserError(
            f"the row has {', '.join(parts)} beside {name}, and irepo does not know whether the prompt includes it",
            where=where,
            remedy=f"name the fields that make up the prompt: prompts.prompt_fields=[{name}] or [{parts[0]},{name}]",
        )
    return _joined({field: row[field] for field in used}, row, where)


def parts_beside(row: Row, used: Sequence[str]) -> list[str]:
    """Fields of the row, other than those `used`, that may be a part of its prompt."""
    return [field for field in _PARTS if field not in used and not is_empty(row.get(field))]


def _joined(values: Mapping[str, object], row: Row, where: str) -> list[Message]:
    """One user's turn of several texts, or the messages of a single field."""
    filled = {field: value for field, value in values.items() if not is_empty(value)}
    if not filled:
        raise _no_prompt(row, where, list(values))
    field, value = next(iter(filled.items()))
    if len(filled) == 1 and isinstance(value, list):
        return _up_to_the_user(read_messages(value, field=field, where=where), where)
    texts = [read_text(value, field=field, where=where) for field, value in filled.items()]
    if any(map(is_encoded, texts)):
        raise UserError(
            f"the prompt ({', '.join(filled)}) holds a conversation as JSON text",
            where=where,
            remedy="write it as a list of messages, not as text",
        )
    return [{"role": "user", "content": "\n\n".join(texts)}]


def _up_to_the_user(messages: list[Message], where: str) -> list[Message]:
    """Messages without the replies that follow the last user's turn: a trailing reply is not a prompt."""
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user":
        raise UserError("the conversation does not end with a user's turn", where=where, remedy="fix the row")
    if is_empty(messages[-1]["content"]):
        raise UserError("the last user's turn is empty", where=where, remedy="fix or remove the row")
    return messages


def _label(row: Row, field: str | None, setting: str, where: str) -> str | None:
    if field is None:
        return None
    remedy = f"write it as text, or leave it out: prompts.{setting}=null (or another field)"
    return read_label(_value(row, field), field=field, where=where, remedy=remedy)


def _no_prompt(row: Row, where: str, fields: Sequence[str]) -> UserError:
    return UserError(
        f"the row has no prompt (expected {' or '.join(fields)}; it has {', '.join(row) or 'no fields'})",
        where=where,
        remedy="add one, or name the right fields: prompts.prompt_fields=[question]",
    )


def _value(row: Row, field: str) -> object:
    """The value at a dotted field name; None if it is absent or null. A field with that very name comes first."""
    if field in row:
        return row[field]
    value: object = row
    for part in field.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
