"""Annotator of kind `verifier`: is the response's final answer the prompt's known answer?"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer

# A sign counts unless it follows a letter, digit or bracket ("7-3" ends in 3); thousands are grouped by threes.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])(?P<sign>[-\u2212]))?[$\u20ac\u00a3]?(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
)


class VerifierSettings(Scorer):
    """Compares a response's final answer with the prompt's `answer`: score 1 or 0; no answer known = abstain."""

    kind: Literal["verifier"]
    method: Literal["number", "exact", "contains"] = "number"  # number: the last number, after '####' if it is there


class Verifier:
    """Scores 1 (right) or 0 (wrong); abstains where the prompt has no answer; an answer it cannot read is an error."""

    kind: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"

    def __init__(self, name: str, settings: VerifierSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin
        self._method = settings.method

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [self._score(response) for response in batch]

    def _score(self, response: Response) -> Score:
        answer = (response.answer or "").strip()
        if not answer:
            return Score("abstain")
        if self._method == "exact":
            return Score("score", float(response.text.strip() == answer))
        if self._method == "contains":
            return Score("score", float(answer in response.text))
        wanted, found = final_number(answer), final_number(response.text)
        if wanted is None:
            return Score("error", raw=f"the prompt's answer has no number: {answer!r}")
        return Score("score", float(found == wanted), raw=None if found is None else str(found))


def final_number(text: str) -> Decimal | None:
    """The final number of a GSM8K-style solution: the first one after the last '####', else the last one in `text`.

    Reads signs, thousands separators, decimals and a currency sign; None where there is no number.
    """
    _, marker, tail = text.rpartition("####")
    numbers = list(_NUMBER.finditer(tail))
    if not numbers:
        return None
    number = numbers[0 if marker else -1]
    value = Decimal(number["digits"].replace(",", ""))
    return -value if number["sign"] else value
