"""An annotator of your own: prefers responses without rude phrases."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer


class ToneSettings(Scorer):
    """score = -(number of rude phrases)."""

    kind: str = "tone"
    phrases: list[str] = Field(["whatever", "ugh", "obviously", "dumb question"], min_length=1)

    def open(self, name: str, *, seed: int) -> "Tone":
        return Tone(name, self)


class Tone:
    """Abstains on empty responses."""

    answer_type: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"

    def __init__(self, name: str, settings: ToneSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin
        self._rude = re.compile(rf"\b(?:{'|'.join(map(re.escape, settings.phrases))})\b", re.IGNORECASE)

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [self._score(response.text) for response in batch]

    def _score(self, text: str) -> Score:
        if not text.strip():
            return Score("abstain")
        return Score("score", -float(len(self._rude.findall(text))))
