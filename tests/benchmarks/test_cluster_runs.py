"""The cluster benchmark: what it compares, which processes it sees, and a short run of it."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.table import Table

from benchmarks.cluster import processes, real
from benchmarks.cluster.equal import Equality, compare
from benchmarks.cluster.kills import Tally
from benchmarks.cluster.processes import MARK, left, marked
from benchmarks.cluster.speed import ONE_PROCESS, ONE_WORKER, TWO_WORKERS, Speed
from benchmarks.report import Report
from storage.manifest import Manifest, describe_files
from tests import skips
from tests.benchmarks.benchmark_command import must_pass
from tests.waiting import wait_until


def publish(stage: Path, files: dict[str, str], *, key: str = "k") -> None:
    stage.mkdir(parents=True)
    for name, text in files.items():
        (stage / name).write_text(text)
    entries = describe_files(stage, [stage / name for name in files])
    Manifest(
        stage=stage.name, round=1, key=key, inputs={}, settings={}, files=entries, stage_version=1, seed=0, started="",
        seconds=0.0, versions={},
    ).sealed().write(stage)  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        publish(tmp_path / name / "round-01/generate", {"responses-00000-of-00001.parquet": "r"})
        publish(tmp_path / name / "round-01/label", {"votes.parquet": "v", "preferences.parquet": "p"})
        publish(tmp_path / name / "round-01/train", {"model.safetensors": "w", "config.json": "c"})
    return tmp_path / "one", tmp_path / "two"


def test_equal_runs_have_no_differences(runs: tuple[Path, Path]) -> None:
    equality = compare(*runs)
    assert equality.differing == []
    assert equality.kinds == {"responses": 1, "votes": 1, "preferences": 1, "weights": 1, "others": 1}


def other_key(stage: Path) -> None:
    shutil.rmtree(stage)
    publish(stage, {"votes.parquet": "v", "preferences.parquet": "p"}, key="another")


@pytest.mark.parametrize(
    ("harm", "differing"),
    [
        (lambda stage: (stage / "votes.parquet").write_text("w"), ["round-01/label/votes.parquet: other content"]),
        (other_key, ["round-01/label: another key"]),
        (lambda stage: (stage / "manifest.json").unlink(), ["round-01/label: missing"]),
    ],
)
def test_each_difference_is_named(
    runs: tuple[Path, Path], harm: Callable[[Path], object], differing: list[str]
) -> None:
    harm(runs[1] / "round-01/label")
    assert compare(*runs).differing == differing


def test_a_process_that_outlives_its_run_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.0)
    sleeper = subprocess.Popen(["sleep", "600"], env=dict(os.environ) | {MARK: "here/1"})
    try:
        wait_until(lambda: (sleeper.pid, b"sleep\x00600\x00") in list(marked("here/1")), 10)
        assert left("here/1", of_cluster="nowhere") == [f"{sleeper.pid} sleep 600 "]
        assert left("here/2", of_cluster="nowhere") == []
    finally:
        sleeper.kill()
        sleeper.wait()
    assert left("here/1", of_cluster="nowhere") == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason=skips.NO_RAY)
def test_runs_on_a_cluster_that_are_killed_end_as_one_in_one_process() -> None:
    must_pass("benchmarks.cluster", "--short", "--prompts", "10000")


def test_the_report_names_what_does_not_hold() -> None:
    table, report = Table(*("figure", "required", "measured")), Report()
    slow = Speed(seconds={ONE_PROCESS: [2.0, 2.0], ONE_WORKER: [2.0, 2.2], TWO_WORKERS: [1.6, 1.9]})
    real.speed_rows(table, report, slow)
    real.equal_rows(table, report, Equality(Counter(responses=1), []), workers=1, orphans=["7 ray::EngineActor"])
    tally = Tally(kills=Counter(worker=1, driver=1), runs=1, differing=["run 1: round-01/train: missing"], hung=1)
    real.kill_rows(table, report, tally, kills=3)
    assert report.missed == [
        "speed-up", "equal bytes", "workers", "orphans", "kills", "files with other bytes than one process's",
        "commands that hung",
    ]  # fmt: skip


def test_a_report_where_everything_holds_misses_nothing() -> None:
    table, report = Table(*("figure", "required", "measured")), Report()
    real.speed_rows(table, report, Speed(seconds={ONE_PROCESS: [2.0], ONE_WORKER: [2.1], TWO_WORKERS: [1.1]}))
    kinds = Counter(responses=2, votes=1, preferences=1, weights=1)
    real.equal_rows(table, report, Equality(kinds, []), workers=2, orphans=[])
    real.kill_rows(table, report, Tally(kills=Counter(node=3), runs=1), kills=3)
    assert report.missed == []
