"""Annotator of kind `order`: the response with the lower index is better. For responses made so (drafts)."""

from collections.abc import Sequence
from typing import Literal

from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer


class OrderSettings(Scorer):
    """Knows how drafts were made, and nothing else."""

    kind: Literal["order"]


class Order:
    """score = -index."""

    kind: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"

    def __init__(self, name: str, settings: OrderSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [Score("score", -float(response.index)) for response in batch]
