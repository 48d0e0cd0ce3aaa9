"""An annotator that scores with a model, on one place of a Ray cluster. Ray makes an actor of this class."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from tasks.cluster.agreement import Facts, facts
from tasks.panel.annotators.protocol import LocalAnnotator, Response, Score
from tasks.panel.scorer import opened_alone, scores_of


class ScorerActor:
    def __init__(self) -> None:
        self._annotator: LocalAnnotator | None = None

    def agree(self, probe: Path) -> Facts:
        """What this worker has in common with the driver. `probe`: a file that the driver wrote; an absolute path."""
        return facts(probe)

    def open(self, name: str, settings: Mapping[str, JsonValue], seed: int, folder: Path) -> None:
        """Open the annotator. folder: the driver's working folder; relative paths and a user's modules are there."""
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        self._annotator = opened_alone(name, settings, seed)

    def score(self, responses: Sequence[Response]) -> list[Score]:
        if self._annotator is None:
            raise RuntimeError("open the annotator before it gets responses")
        return scores_of(self._annotator, responses)
