"""A pair of responses to one conversation, and how a row says which response is preferred and how surely."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.conversations import Message, described
from storage.errors import UserError
from storage.prompts import prompt_of
from storage.rows import Row


@dataclass(frozen=True)
class OfflinePair:
    """The conversation before the reply, and two replies to it. p_hat: P(chosen > rejected), in [0.5, 1)."""

    where: str
    prompt: list[Message]
    chosen: str
    rejected: str
    p_hat: float
    #: Where p_hat comes from: "row", "scores", or "setting" (the p_hat of all rows without one).
    source: str = "row"


@dataclass(frozen=True)
class Reading:
    """How preferences are read.

    setting: the key of the settings, for messages. p_hat: of rows without one and without scores; None: such rows are
    refused. score_fields: of chosen and rejected; () = not read. response_score: the score of a row's one response;
    None = such rows are refused. scale: P = sigmoid(scale * difference of the scores). transcripts: whether texts with
    "Human:" and "Assistant:" are read as turns.
    """

    setting: str
    p_hat: float | None = None
    score_fields: tuple[str, ...] = ()
    response_score: str | None = None
    scale: float = 1.0
    transcripts: bool = False

    def probability(self, difference: float) -> float:
        """P of the better response. difference: of the scores, at least 0."""
        # Below 1 also where float64 rounds to it: its logit has to be finite.
        return min(1 / (1 + math.exp(-self.scale * difference)), 1 - 1e-12)


def preference(row: Row, where: str, reading: Reading) -> tuple[float, str]:
    """(P(chosen > rejected), where it comes from) of a row with chosen and rejected.

    `p_hat` in the row comes first, then its scores, then `reading.p_hat`. Raises UserError for values out of range, for
    scores that prefer the rejected response, for one score without the other, and when there is nothing to read.
    """
    if row.get("p_hat") is not None:
        return _p_hat(row["p_hat"], where), "row"
    scores = [row.get(field) for field in reading.score_fields]
    if (given := len(scores) - scores.count(None)) == 1:
        raise UserError(
            f"the row has only one of the scores {' and '.join(reading.score_fields)}",
            where=where,
            remedy=f"add the other or remove the row, or leave scores unread: {reading.setting}.score_fields=[]",
        )
    if given:
        chosen, rejected = (
            number(score, field, where) for score, field in zip(scores, reading.score_fields, strict=True)
        )
        if chosen < rejected:
            raise UserError(
                f"the scores prefer the rejected response: {reading.score_fields[0]} is {chosen:g}, "
                f"{reading.score_fields[1]} is {rejected:g}",
                where=where,
                remedy=f"fix or remove the row, or leave scores unread: {reading.setting}.score_fields=[]",
            )
        return reading.probability(chosen - rejected), "scores"
    if reading.p_hat is None:
        raise UserError(
            "the row has no p_hat",
            where=where,
            remedy=f"add a column p_hat, or set it for all rows: {reading.setting}.p_hat=0.9",
        )
    return reading.p_hat, "setting"


def number(value: object, field: str, where: str) -> float:
    """A finite number. Raises UserError for any other value."""
    if not isinstance(value, float | int) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        what = str(value) if isinstance(value, float) else described(value)
        raise UserError(
            f"the field {field} is {what}, not a finite number", where=where, remedy="fix or remove the row"
        )
    return float(value)


def _p_hat(value: object, where: str) -> float:
    remedy = "use P(chosen > rejected), at least 0.5 and less than 1"
    if not isinstance(value, float | int) or isinstance(value, bool):
        raise UserError(f"p_hat is {described(value)}, not a number", where=where, remedy=remedy)
    if not 0.5 <= value < 1:
        raise UserError(f"p_hat is {value!r}", where=where, remedy=remedy)
    return float(value)


def has(row: Mapping[str, object], *fields: str) -> bool:
    """Whether the row has a value in each of the fields."""
    return all(row.get(field) is not None for field in fields)


def prompt_in_row(row: Row, where: str, fields: Sequence[str] = ()) -> list[Message]:
    """As `prompt_of`, with a remedy that fits preference sets."""
    try:
        return prompt_of(row, where, fields)
    except UserError as error:
        remedy = "write the whole prompt in a field `prompt`, as text or as messages"
        raise UserError(error.what, where=where, remedy=remedy) from None
