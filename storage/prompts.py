"""Reads prompt files: checks every row, and separates training from held-out prompts by hash."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from storage.errors import UserError
from storage.files import canonical_json

#: The prompt's field where none is configured: the first of these that the row has.
PROMPT_FIELDS = ("messages", "prompt", "question", "instruction")
_FORMATS = (".jsonl", ".jsonl.gz", ".parquet")


def prompt_id(messages: Sequence[Mapping[str, str]]) -> str:
    """First 16 hex digits of the sha256 of a prompt's messages: equal prompts have equal ids."""
    return hashlib.sha256(canonical_json([dict(m) for m in messages]).encode()).hexdigest()[:16]


def is_heldout(identifier: str, share: float) -> bool:
    """Whether a prompt is held out. Depends on its id alone: the same for every run, file order and seed."""
    return int(identifier[:8], 16) < share * 2**32


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a JSONL, gzipped JSONL or Parquet file; `where` is 'file:line' or 'file:row N'.

    Raises UserError when the file is missing, unreadable or in another format, or a line is not a JSON object.
    """
    if not path.is_file():
        raise UserError("the file does not exist", where=str(path), remedy="give the path of a " + ", ".join(_FORMATS))
    if path.name.endswith(".parquet"):
        yield from _parquet_rows(path)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _json_rows(path)
    else:
        raise UserError(
            "irepo does not read files of this format",
            where=str(path),
            remedy="convert it to one of " + ", ".join(_FORMATS),
        )


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield f"{path}:row {number}", row
                number += 1
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise UserError(
            f"the file cannot be read: {error}", where=str(path), remedy="check or replace the file"
        ) from None


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError("the line is not a JSON object", where=f"{path}:{number}", remedy="fix the line")
                yield f"{path}:{number}", row
    except json.JSONDecodeError as error:
        raise UserError(f"the line is not JSON: {error.msg}", where=f"{path}:{number}", remedy="fix the line") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(
            f"the file cannot be read: {error}", where=str(path), remedy="check or replace the file"
        ) from None


def each_prompt(
    source: Iterable[tuple[str, dict[str, Any]]],
    *,
    where: str,
    prompt_fields: Sequence[str] = (),
    answer_field: str = "answer",
    reference_field: str = "reference",
    category_field: str = "category",
    system: str | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of storage.schemas.PROMPTS from (where, row) pairs, in their order; repeated prompts appear once.

    Keeps only the ids of earlier rows in memory.

    `prompt_fields` are joined by a blank line (empty ones skipped); dotted names reach inside ('instances.0.input').
    Without them each row's prompt is its first field of PROMPT_FIELDS. Raises UserError (file, line) for a row
    without a prompt, malformed messages, and a file without rows.
    """
    seen: set[str] = set()
    for place, row in source:
        if limit is not None and len(seen) >= limit:
            break
        messages = _messages(row, place, prompt_fields, system)
        identifier = prompt_id(messages)
        if identifier in seen:
            continue
        seen.add(identifier)
        yield {
            "prompt_id": identifier,
            "messages": messages,
            "answer": _optional_text(row, answer_field),
            "reference": _optional_text(row, reference_field),
            "category": _optional_text(row, category_field),
            "source": place,
        }
    if not seen:
        raise UserError("the file has no prompts", where=where, remedy="name a file with at least one row")


def _messages(row: dict[str, Any], where: str, fields: Sequence[str], system: str | None) -> list[dict[str, str]]:
    if fields:
        content: Any = "\n\n".join(text for field in fields if (text := _optional_text(row, field)))
    else:
        content = next((row[name] for name in PROMPT_FIELDS if row.get(name)), None)
    if not content or (isinstance(content, str) and not content.strip()):
        names = " or ".join(fields or PROMPT_FIELDS)
        raise UserError(
            f"the row has no prompt (expected {names}; it has {', '.join(row) or 'no fields'})",
            where=where,
            remedy="add one, or name the right fields: prompts.prompt_fields=[question]",
        )
    messages = [{"role": "user", "content": content}] if isinstance(content, str) else _checked(content, where)
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _checked(content: Any, where: str) -> list[dict[str, str]]:
    """A list of messages up to and including the last user turn (a trailing assistant reply is not a prompt)."""
    valid = isinstance(content, list) and all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in content
    )
    if not valid:
        raise UserError(
            "the prompt is neither text nor a list of {role, content} messages", where=where, remedy="fix the row"
        )
    messages = [{"role": m["role"], "content": m["content"]} for m in content]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user":
        raise UserError("the conversation does not end with a user's turn", where=where, remedy="fix the row")
    return messages


def _optional_text(row: dict[str, Any], field: str) -> str | None:
    """The value at a dotted field name as text; None if it is absent or null."""
    value: Any = row
    for part in field.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = None
        if value is None:
            return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
