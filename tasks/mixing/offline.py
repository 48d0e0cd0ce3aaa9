"""A preference set that is mixed into rounds: rows with chosen and rejected in, PREFERENCES with token ids out."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from storage.errors import UserError
from storage.rows import read_rows
from storage.schemas import PREFERENCES
from storage.stage import KeyedBy
from tasks.labeling.margin_filter import PolicyMarginFilter
from tasks.mixing.encode import OfflineCounts, PairEncoder
from tasks.mixing.shapes.pair import OfflinePair, Reading
from tasks.mixing.shapes.read import pairs_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class OfflineSettings(BaseModel):
    """A preference set: a file or folder with `chosen`, `rejected` and, unless they include it, `prompt`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[Path, KeyedBy("offline")]
    share: float = Field(gt=0, lt=1)  # of a round's training pairs
    keep: PolicyMarginFilter | None = None  # SeRA: only pairs with the largest implicit-reward margins; None = all
    p_hat: float | None = Field(None, gt=0.5, lt=1)  # P(chosen > rejected) for rows without a column p_hat
    transcripts: bool = False  # read "Human:" and "Assistant:" in chosen and rejected as turns (HH-RLHF)


def read_pairs(settings: OfflineSettings) -> Iterator[OfflinePair]:
    """Every row of the set. Raises UserError, with file and row, for a row that is not a pair, has content that is not
    text, or has no p_hat; and when there are no rows."""
    empty = True
    reading = Reading("mixing.offline", p_hat=settings.p_hat, transcripts=settings.transcripts)
    for pair in pairs_of(read_rows(settings.path), reading):
        empty = False
        yield pair
    if empty:
        raise UserError("the file has no pairs", where=str(settings.path), remedy="give a file with at least one")


def read_offline(
    settings: OfflineSettings, tokenizer: "PreTrainedTokenizerBase", counts: OfflineCounts | None = None
) -> pa.Table:
    """The pairs of the set, as round 0 (`PairEncoder.row`). `counts` is added to.

    Rows whose responses are equal are left out. Raises UserError as `read_pairs`, for a row that the chat template
    refuses, and when no row is left.
    """
    encoder = PairEncoder(tokenizer, OfflineCounts() if counts is None else counts)
    rows = [row for pair in read_pairs(settings) if (row := encoder.row(pair)) is not None]
    encoder.special.warn()
    if not rows:
        raise UserError(
            "the two responses of every row are equal", where=str(settings.path), remedy="give a file with other pairs"
        )
    return pa.Table.from_pylist(rows, schema=PREFERENCES)
