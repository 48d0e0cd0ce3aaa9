"""A small stage of the kind `generate`, for tests of placement."""

from typing import ClassVar

from pydantic import BaseModel

from storage.files import publish_text
from storage.manifest import Manifest
from storage.stage import Outcome, Progress, Spec, TaskName, run_stage, silent


class NoSettings(BaseModel):
    pass


class PlacedSpec(Spec):
    stage: ClassVar[str] = "generate"
    version: ClassVar[int] = 1
    runs: ClassVar[str] = "tests.flows.placed_spec:work"
    task: ClassVar[TaskName | None] = "generate"

    settings: NoSettings = NoSettings()


def work(spec: Spec, progress: Progress = silent) -> Manifest:
    """Publish one file."""

    def body() -> Outcome:
        publish_text(spec.folder / "numbers.txt", "0 1 2\n")
        return Outcome(paths=[spec.folder / "numbers.txt"])

    return run_stage(spec, body)
