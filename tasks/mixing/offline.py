"""Preference data from outside the run: TRL's formats in, rows of storage.schemas.PREFERENCES with token ids out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from storage.conversations import (
    Message,
    described,
    is_empty,
    is_encoded,
    read_messages,
    read_text,
    refuse_unread_columns,
    with_system,
)
from storage.errors import UserError
from storage.prompts import prompt_id
from storage.rows import Row, read_rows
from storage.schemas import PREFERENCES
from storage.stage import KeyedBy
from tasks.labeling.margin_filter import PolicyMarginFilter
from tasks.modeling.conversation import RefusedConversation, encode_reply

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class OfflineSettings(BaseModel):
    """A preference set: a file or folder with `chosen`, `rejected` and, unless they include it, `prompt`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[Path, KeyedBy("offline")]
    share: float = Field(gt=0, lt=1)  # of a round's training pairs
    keep: PolicyMarginFilter | None = None  # SeRA: only pairs with the largest implicit-reward margins; None = all
    p_hat: float | None = Field(None, gt=0.5, lt=1)  # P(chosen > rejected) for rows without a column p_hat


@dataclass
class OfflineCounts:
    """What was read. rows: of the set. equal: with two equal responses, left out. repeated: pairs that come again.
    contradicted: pairs that come again the other way round."""

    rows: int = 0
    equal: int = 0
    repeated: int = 0
    contradicted: int = 0


@dataclass(frozen=True)
class OfflinePair:
    """One row: the conversation before the reply, and two replies to it. p_hat: P(chosen > rejected)."""

    where: str
    prompt: list[Message]
    chosen: str
    rejected: str
    p_hat: float


def read_pairs(settings: OfflineSettings) -> Iterator[OfflinePair]:
    """Every row of the set. Raises UserError, with file and row, for a row that is not a pair, has content that is not
    text, or has no p_hat; and when there are no rows."""
    empty = True
    for where, row in read_rows(settings.path):
        empty = False
        yield _pair(row, where, settings.p_hat)
    if empty:
        raise UserError("the file has no pairs", where=str(settings.path), remedy="give a file with at least one")


def read_offline(
    settings: OfflineSettings, tokenizer: "PreTrainedTokenizerBase", counts: OfflineCounts | None = None
) -> pa.Table:
    """The pairs of the set, as round 0. Each response ends with the token that ends turns in the chat template.

    `counts` is added to.

    The standard error of a target is unknown (NaN), and there are no votes. Rows whose responses are equal are left
    out. Raises UserError as `read_pairs`, for a row that the chat template refuses, and when no row is left.
    """
    counts = OfflineCounts() if counts is None else counts
    seen: dict[str, dict[str, int]] = {}
    pairs: set[tuple[str, int, int]] = set()
    rows = []
    for pair in read_pairs(settings):
        counts.rows += 1
        if pair.chosen == pair.rejected:
            counts.equal += 1
            continue
        prompt, texts = pair.prompt, (pair.chosen, pair.rejected)
        identifier = prompt_id(prompt)
        numbers = seen.setdefault(identifier, {})
        indices = [numbers.setdefault(text, len(numbers)) for text in texts]
        counts.repeated += (identifier, indices[0], indices[1]) in pairs
        counts.contradicted += (identifier, indices[1], indices[0]) in pairs
        pairs.add((identifier, indices[0], indices[1]))
        try:
            ids = [encode_reply(tokenizer, prompt, text) for text in texts]
        except RefusedConversation as refused:
            raise refused.at(pair.where) from None
        rows.append(
            {
                "prompt": prompt,
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
                "prompt_id": identifier,
                "round": 0,
                "chosen_index": indices[0],
                "rejected_index": indices[1],
                "p_hat": pair.p_hat,
                "target": math.log(pair.p_hat / (1 - pair.p_hat)),
                "target_se": math.nan,
                **dict.fromkeys(("votes_chosen", "votes_rejected", "votes_tie"), 0.0),
                **dict.fromkeys(("votes_abstain", "votes_error"), 0),
                "prompt_ids": ids[0].prompt_ids,
                "chosen_ids": ids[0].reply_ids,
                "rejected_ids": ids[1].reply_ids,
                "chosen_finish_reason": "stop",
                "rejected_finish_reason": "stop",
            }
        )
    if not rows:
        raise UserError(
            "the two responses of every row are equal", where=str(settings.path), remedy="give a file with other pairs"
        )
    return pa.Table.from_pylist(rows, schema=PREFERENCES)


def _pair(row: Row, where: str, p_hat: float | None) -> OfflinePair:
    """The row as a pair. A response is text, or the last message of a conversation; the prompt is `prompt`, or what
    precedes the last message. Both responses must follow the same conversation."""
    missing = [side for side in ("chosen", "rejected") if row.get(side) is None]
    if missing:
        raise _refuse(f"the row has no {' and no '.join(missing)}: it is not a pair of responses", where)
    refuse_unread_columns(row, where=where, remedy="remove the row or the column")
    explicit = _explicit_prompt(row.get("prompt"), where)
    (before, chosen), (other, rejected) = (_side(row[side], side, where) for side in ("chosen", "rejected"))
    prompt = _conversation(explicit, before, isinstance(row.get("prompt"), str), "chosen", where)
    if prompt != _conversation(explicit, other, isinstance(row.get("prompt"), str), "rejected", where):
        raise _refuse("chosen and rejected do not start with the same turns", where)
    prompt = with_system(prompt, row, where=where)
    if prompt[-1]["role"] != "user":
        raise _refuse("the conversation before the responses does not end with a user's turn", where)
    return OfflinePair(where, prompt, chosen, rejected, _preference(row.get("p_hat"), p_hat, where))


def _explicit_prompt(value: object, where: str) -> list[Message]:
    """The messages in `prompt`; [] without one."""
    if is_empty(value):
        return []
    if not isinstance(value, str):
        return read_messages(value, field="prompt", where=where)
    text = read_text(value, field="prompt", where=where)
    if is_encoded(text):
        raise _refuse("the prompt is a conversation as JSON text", where, "write it as a list of messages")
    return [{"role": "user", "content": text}]


def _side(value: object, field: str, where: str) -> tuple[list[Message], str]:
    """(the messages before the response, its text) of `chosen` or `rejected`."""
    if isinstance(value, str):
        text = read_text(value, field=field, where=where)
        if is_encoded(text):
            raise _refuse(f"{field} is a conversation as JSON text", where, "write it as a list of messages")
        return [], text
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


def _preference(value: object, default: float | None, where: str) -> float:
    value = default if value is None else value
    if value is None:
        raise _refuse(
            "the row has no p_hat", where, "add a column p_hat, or set it for all rows: mixing.offline.p_hat=0.9"
        )
    remedy = "use P(chosen > rejected), at least 0.5 and less than 1"
    if not isinstance(value, float | int) or isinstance(value, bool):
        raise _refuse(f"p_hat is {described(value)}, not a number", where, remedy)
    if not 0.5 <= value < 1:
        raise _refuse(f"p_hat is {value!r}", where, remedy)
    return float(value)


def _refuse(what: str, where: str, remedy: str = "write prompt, chosen and rejected as TRL does") -> UserError:
    return UserError(what, where=where, remedy=remedy)
