"""Preference data from outside the run: TRL's formats in, rows of storage.schemas.PREFERENCES with token ids out."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from storage.errors import UserError
from storage.prompts import prompt_id, read_rows
from storage.schemas import PREFERENCES
from storage.stage import KeyedBy
from tasks.labeling.margin_filter import PolicyMarginFilter
from tasks.modeling.conversation import RefusedConversation, encode_reply

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]


class OfflineSettings(BaseModel):
    """A preference set: JSONL, JSONL.gz or Parquet with `chosen`, `rejected` and, unless they include it, `prompt`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[Path, KeyedBy("offline")]
    share: float = Field(gt=0, lt=1)  # of a round's training pairs
    keep: PolicyMarginFilter | None = None  # SeRA: only pairs with the largest implicit-reward margins; None = all
    p_hat: float | None = Field(None, gt=0.5, lt=1)  # P(chosen > rejected) for rows without a column p_hat


def read_offline(settings: OfflineSettings, tokenizer: "PreTrainedTokenizerBase") -> pa.Table:
    """The pairs of the file, as round 0. Each response ends with the token that ends turns in the chat template.

    chosen and rejected are texts or lists of messages. The standard error of a target is unknown (NaN), and there are
    no votes. Rows whose responses are equal are left out. Raises UserError, with the row, when it is not a pair, its
    p_hat is missing, or the policy's chat template refuses it.
    """
    seen: dict[str, dict[str, int]] = {}
    rows = []
    for where, row in read_rows(settings.path):
        prompt, chosen, rejected = _pair(row, where)
        if chosen == rejected:
            continue
        identifier = prompt_id(prompt)
        numbers = seen.setdefault(identifier, {})
        indices = [numbers.setdefault(text, len(numbers)) for text in (chosen, rejected)]
        try:
            ids = [encode_reply(tokenizer, prompt, text) for text in (chosen, rejected)]
        except RefusedConversation as refused:
            raise refused.at(where) from None
        p_hat = _preference(row.get("p_hat", settings.p_hat), where)
        rows.append(
            {
                "prompt": prompt,
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "prompt_id": identifier,
                "round": 0,
                "chosen_index": indices[0],
                "rejected_index": indices[1],
                "p_hat": p_hat,
                "target": math.log(p_hat / (1 - p_hat)),
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
        raise UserError("the file has no pairs", where=str(settings.path), remedy="give a file with at least one")
    return pa.Table.from_pylist(rows, schema=PREFERENCES)


def _pair(row: Mapping[str, Any], where: str) -> tuple[Messages, str, str]:
    """(prompt, chosen, rejected). Responses are the last turns; a missing `prompt` is the turns before them."""
    sides = [row.get("chosen"), row.get("rejected")]
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if prompt is None and all(isinstance(side, Sequence) and not isinstance(side, str) for side in sides):
        prompt = list(sides[0] or [])[:-1]
        if prompt != list(sides[1] or [])[:-1]:
            raise _refuse("chosen and rejected do not start with the same turns", where)
    texts = [side if isinstance(side, str) else _last(side) for side in sides]
    if not prompt or texts[0] is None or texts[1] is None:
        raise _refuse("the row is not a pair of responses to a prompt", where)
    messages = [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in prompt]
    return messages, texts[0], texts[1]


def _last(turns: Any) -> str | None:
    """The text of the last message, if it is the assistant's."""
    last = turns[-1] if isinstance(turns, Sequence) and turns else None
    return str(last["content"]) if isinstance(last, Mapping) and last.get("role") == "assistant" else None


def _preference(value: Any, where: str) -> float:
    if value is None:
        raise _refuse(
            "the row has no p_hat", where, "add a column p_hat, or set it for all rows: mixing.offline.p_hat=0.9"
        )
    if not isinstance(value, float | int) or not 0.5 <= value < 1:
        raise _refuse(f"p_hat is {value!r}", where, "use P(chosen > rejected), at least 0.5 and less than 1")
    return float(value)


def _refuse(what: str, where: str, remedy: str = "write prompt, chosen and rejected as TRL does") -> UserError:
    return UserError(what, where=where, remedy=remedy)
