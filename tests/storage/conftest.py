"""A small stage to publish: two files, one of them in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel

from storage.files import publish_text
from storage.stage import Outcome, Spec


class CountSettings(BaseModel):
    until: int = 3


class CountSpec(Spec):
    stage: ClassVar[str] = "count"
    version: ClassVar[int] = 1

    settings: CountSettings
    source: Path = Path("somewhere")


@pytest.fixture
def spec(tmp_path: Path) -> CountSpec:
    return CountSpec(
        folder=tmp_path / "run" / "count", round=1, seed=5, inputs={"source": "abc"}, settings=CountSettings()
    )


@pytest.fixture
def body(spec: CountSpec) -> Callable[[], Outcome]:
    """Publishes the files and counts its calls in `body.calls`."""

    def publish() -> Outcome:
        publish.calls += 1  # type: ignore[attr-defined]
        publish_text(spec.folder / "numbers.txt", "0 1 2\n")
        publish_text(spec.folder / "model" / "weights.bin", "w" * 100)
        return Outcome(
            paths=[spec.folder / "numbers.txt", spec.folder / "model"], rows={"numbers": 3}, summary={"mean": 1.0}
        )

    publish.calls = 0  # type: ignore[attr-defined]
    return publish
