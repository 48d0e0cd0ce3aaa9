"""Rows with two responses and how strongly the second is preferred, as in HelpSteer2-Preference and HelpSteer3.

A negative strength prefers the first response. P(preferred) = sigmoid(scale * |strength|); 0 is a tie.
"""

from collections.abc import Iterable, Iterator

from storage.conversations import read_text
from storage.errors import UserError
from storage.rows import Row
from tasks.mixing.shapes.helpsteer import prompt_of_row
from tasks.mixing.shapes.pair import OfflinePair, Reading, has, number

#: (the first response, the second one, the strength)
_FIELDS = (("response_1", "response_2", "preference_strength"), ("response1", "response2", "overall_preference"))


def fits(row: Row, reading: Reading) -> bool:
    return any(first in row and second in row for first, second, _ in _FIELDS)


def pairs(rows: Iterable[tuple[str, Row]], reading: Reading) -> Iterator[OfflinePair]:
    """One pair a row. Raises UserError for a row without both responses or without a strength."""
    for where, row in rows:
        names = next((names for names in _FIELDS if has(row, *names)), None)
        if names is None:
            raise UserError(
                "the row has no two responses with a strength of preference",
                where=where,
                remedy=f"write {', '.join(_FIELDS[0])}, or prompt, chosen and rejected",
            )
        first, second, strength = names
        texts = [read_text(row[field], field=field, where=where) for field in (first, second)]
        value = number(row[strength], strength, where)
        chosen, rejected = reversed(texts) if value > 0 else texts
        yield OfflinePair(where, prompt_of_row(row, where), chosen, rejected, reading.probability(abs(value)), "scores")
