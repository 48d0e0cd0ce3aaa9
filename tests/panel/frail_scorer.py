"""An annotator of kind ScoresWithModel without a model: it scores by length, and can kill its process or fail."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import ScoresWithModel


class FrailSettings(ScoresWithModel):
    """folder: where each death leaves a file. deaths: how often a batch with a response "deadly" kills."""

    kind: Literal["tests.panel.frail_scorer:FrailSettings"] = "tests.panel.frail_scorer:FrailSettings"
    device: str = "cpu"
    folder: Path
    deaths: int = 0

    def open(self, name: str, *, seed: int) -> "FrailScorer":
        return FrailScorer(name, self)


class FrailScorer:
    answer_type: Literal["scores"] = "scores"
    lane: Literal["model"] = "model"

    def __init__(self, name: str, settings: FrailSettings) -> None:
        self.name, self.tie_margin, self._settings = name, settings.tie_margin, settings

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        folder, texts = self._settings.folder, [response.text for response in batch]
        (folder / f"process-{os.getpid()}").touch()
        if "deadly" in texts and len(list(folder.glob("death-*"))) < self._settings.deaths:
            (folder / f"death-{os.getpid()}").touch()
            os._exit(9)
        if "broken" in texts:
            raise KeyError("broken")
        return [Score("score", len(text) / 3) for text in texts]
