"""Annotator of kind `verifier`: does the response's final answer equal the prompt's known answer?"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer

# A minus sign counts unless it follows a letter, digit or bracket ("7-3" ends in 3). Thousands are groups of three.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])(?P<sign>[-\u2212]))?[$\u20ac\u00a3]?(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
)


class VerifierSettings(Scorer):
    """Compares a response's final answer with the prompt's `answer`: score 1 or 0; without an answer it abstains."""

    kind: Literal["verifier"] = "verifier"
    method: Literal["number", "exact", "contains"] = "number"  # number: the last number, or the one after '####'

    def compares_with(self) -> Literal["answer"]:
        return "answer"

    def open(self, name: str, *, seed: int) -> "Verifier":
        return Verifier(name, self)


class Verifier:
    """Scores 1 (right) or 0 (wrong). Abstains if the prompt has no answer; a prompt's answer without a number is an
    error."""

    answer_type: Literal["scores"] = "scores"
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
        wanted, number = final_number(answer), final_number(response.text)
        if wanted is None:
            return Score("error", raw=f"the prompt's answer has no number: {answer!r}")
        return Score("score", float(number == wanted), raw=None if number is None else str(number))


def final_number(text: str) -> Decimal | None:
    """The final number of a GSM8K-style solution: the first one after the last '####', else the last one in `text`.

    Reads signs, thousands separators, decimals and currency signs. None if there is no number.
    """
    _, marker, tail = text.rpartition("####")
    numbers = list(_NUMBER.finditer(tail))
    if not numbers:
        return None
    number = numbers[0 if marker else -1]
    value = Decimal(number["digits"].replace(",", ""))
    return -value if number["sign"] else value
