"""Annotator of kind `order`: the response with the lower index is better. For drafts, which are made in that order."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer


class OrderSettings(Scorer):
    """Prefers the first of a prompt's two drafts."""

    kind: Literal["order"] = "order"

    needs_drafts: ClassVar[bool] = True

    def open(self, name: str, *, seed: int) -> "OrderAnnotator":
        return OrderAnnotator(name, self)


class OrderAnnotator:
    """score = -index."""

    answer_type: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"

    def __init__(self, name: str, settings: OrderSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [Score("score", -float(response.index)) for response in batch]
