"""The chaos benchmark, short: kills, resumes, and broken files; and the benchmark's own eyes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.chaos.compare import compare
from benchmarks.chaos.victim import NAME, Victim
from benchmarks.chaos.watch import Ledger, Stages
from storage.files import publish_text
from tests.benchmarks.benchmark_command import must_pass


@pytest.mark.slow
@pytest.mark.vllm
def test_a_killed_run_ends_as_one_that_was_not() -> None:
    must_pass("benchmarks.chaos", "--kills", "5", "--short")


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal run folders with one finished stage each."""
    folders = tmp_path / "a" / "victim", tmp_path / "b" / "victim"
    for seconds, run in enumerate(folders):
        manifest = {
            "files": [{"path": "x.parquet"}],
            "seconds": seconds,
            "started": str(seconds),
            "digest": str(seconds),
        }
        publish_text(run / "label" / "manifest.json", json.dumps(manifest))
        publish_text(run / "label" / "x.parquet", "rows")
    return folders


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda stage: (stage / "x.parquet").write_text("row"), {"label/x.parquet": "other content"}),
        (lambda stage: (stage / "x.parquet").unlink(), {"label/x.parquet": "missing"}),
        (lambda stage: (stage / ".y.tmp").touch(), {"label/.y.tmp": "left behind"}),
        (
            lambda stage: publish_text(stage / "manifest.json", '{"digest": ""}'),
            {"label/manifest.json": "other content"},
        ),
        (lambda stage: None, {}),
    ],
)
def test_two_runs_are_compared_but_for_their_times(
    runs: tuple[Path, Path], harm: Callable[[Path], object], what: dict[str, str]
) -> None:
    harm(runs[1] / "label")
    assert compare(*runs) == what


def test_what_is_published_again_is_seen(runs: tuple[Path, Path]) -> None:
    ledger = Ledger(runs[0])
    ledger.look()
    ledger.look()
    assert (len(ledger), ledger.rewritten) == (2, [])
    publish_text(runs[0] / "label" / "x.parquet", "rows")
    ledger.look()
    assert ledger.rewritten == ["label/x.parquet"]


def test_the_stages_that_kills_target_follow_from_the_round(tmp_path: Path) -> None:
    stages = Stages(tmp_path / NAME, Victim(tmp_path).words(tmp_path), rounds=2)
    names = [folder.relative_to(tmp_path / NAME).as_posix() for _, folder in stages.folders]
    assert names[0] == "prompts"
    assert names.index("round-00/evaluate") < names.index("round-01/prompts") < names.index("round-01/train")
    assert names.index("round-01/train") < names.index("round-01/gate") < names.index("round-02/generate")
    assert {"generate", "label", "train", "evaluate/responses", "evaluate"} <= set(stages.aimed)
