"""A small stage that publishes two files, one of them in a folder."""

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from storage.artifact import Artifact
from storage.files import publish_text
from storage.stage import Outcome, Spec


class CountSettings(BaseModel):
    until: int = 3


class CountSpec(Spec):
    stage: ClassVar[str] = "count"
    version: ClassVar[int] = 1
    runs: ClassVar[str] = "tests.storage.count_stage:never"

    settings: CountSettings
    source: Artifact
    others: dict[str, Artifact] = Field({})
    limit: int | None = None


class Body:
    """Publishes two files, one of them in a folder, and counts its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = 0

    def __call__(self) -> Outcome:
        self.calls += 1
        publish_text(self.folder / "numbers.txt", "0 1 2\n")
        publish_text(self.folder / "model" / "weights.bin", "w" * 100)
        return Outcome(
            paths=[self.folder / "numbers.txt", self.folder / "model"], rows={"numbers": 3}, summary={"mean": 1.0}
        )
