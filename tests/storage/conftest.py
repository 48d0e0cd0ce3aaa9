"""Fixtures of a small stage and of small runs."""

from pathlib import Path

import pytest

from storage.artifact import Artifact
from tests.storage.count_stage import Body, CountSettings, CountSpec
from tests.storage.small_run import MakeRun, SmallRun


@pytest.fixture
def spec(tmp_path: Path) -> CountSpec:
    source = Artifact(path=tmp_path / "somewhere", digest="abc")
    return CountSpec(folder=tmp_path / "run" / "count", round=1, seed=5, settings=CountSettings(), source=source)


@pytest.fixture
def body(spec: CountSpec) -> Body:
    return Body(spec.folder)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a small run: `make_run("one", rate=0.5, seed=0, rounds=2)`. All read the same files from outside."""
    outside = tmp_path / "outside"
    (outside / "policy").mkdir(parents=True)
    (outside / "policy" / "model.bin").write_text("weights")
    (outside / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    return lambda name, **options: SmallRun(tmp_path / "runs" / name, outside, **options)
