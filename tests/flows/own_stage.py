"""A stage in one file: what CONTRIBUTING.md says a new stage needs, besides its line in flows/round.py."""

from typing import ClassVar

from pydantic import BaseModel

from storage.artifact import Artifact
from storage.files import publish_text
from storage.manifest import Manifest
from storage.stage import Outcome, Progress, Spec, TaskName, run_stage, silent


class CountSettings(BaseModel):
    unit: str = "lines"


class CountSpec(Spec):
    """Count the lines of a file."""

    stage: ClassVar[str] = "count"
    version: ClassVar[int] = 1
    runs: ClassVar[str] = "tests.flows.own_stage:count"
    task: ClassVar[TaskName] = "evaluate"

    settings: CountSettings
    text: Artifact


def count(spec: CountSpec, progress: Progress = silent) -> Manifest:
    def body() -> Outcome:
        lines = len(spec.text.path.read_text(encoding="utf-8").splitlines())
        path = spec.folder / "count.txt"
        publish_text(path, f"{lines} {spec.settings.unit}\n")
        return Outcome(paths=[path], summary={"lines": lines})

    return run_stage(spec, body)
