"""Trackers: what they hold afterwards, read with their own readers; each round once; their failure stops nothing."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from conf.compose import compose_config
from storage.errors import UserError
from storage.layout import RunLayout
from tasks.evaluation.record import RoundRecord
from tasks.reporting import tracking
from tasks.reporting.tracking import check_tracker, round_values, track, training_points
from tests.reporting.records import INTERVAL, round_record


def record(number: int, **changed: Any) -> RoundRecord:
    figures: dict[str, Any] = {
        "win_rate": {"initial": {"truth": INTERVAL}} if number else {},
        "rates": {"correct": INTERVAL},
        "kl": {"mean": 0.5 * number, "se": 0.1, "per_token": 0.1},
        "harness": {
            "scores": {"arc": {"acc,none": {"value": 0.3, "stderr": None, "higher_is_better": True}}}, "average": None,
        },
        "mt_bench": {
            "judge": "judge", "overall": INTERVAL | {"mean": 6.5}, "turns": {}, "categories": {}, "failed": {},
        },
    }  # fmt: skip
    return round_record(number, **figures | changed)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunLayout:
    monkeypatch.setattr(tracking, "_failed", set())
    run = RunLayout(tmp_path / "run")
    for number, steps in ((1, 3), (2, 2)):
        folder = run.stage(number, "train")
        folder.mkdir(parents=True)
        rows = [{"step": step, "epoch": 0.5, "loss": 10 * number + step, "note": "x"} for step in range(1, steps + 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_points(layout: RunLayout) -> None:
    assert training_points(layout, 0) == []
    assert training_points(layout, 2) == [(4, {"train/loss": 21.0}), (5, {"train/loss": 22.0})]
    assert round_values(record(1, unique_rate=float("nan"))) == {
        "tokens": 7.0, "finish_rate": 1.0, "kl": 0.5, "win_rate/initial/truth": 0.6, "rates/correct": 0.6,
        "seconds/train": 2.0, "seconds/label": 1.0, "harness/arc/acc-none": 0.3, "mt_bench": 6.5,
    }  # fmt: skip


def test_tensorboard_holds_every_point_once(layout: RunLayout) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for count in (2, 3, 3):  # round by round, and once more for nothing, as a run that goes on does
        track("tensorboard", layout, [record(number) for number in range(count)], {})
    events = EventAccumulator(str(layout.root / "tracker" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 11), (2, 12), (3, 13), (4, 21), (5, 22)]
    assert [(e.step, e.value) for e in events.Scalars("round/kl")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert "round/harness/arc/acc-none" in events.Tags()["scalars"]


def test_mlflow_holds_every_point_once(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for count in (2, 3, 3):
        track("mlflow", layout, [record(number) for number in range(count)], {"seed": 3})
    assert not tracking._failed
    client = mlflow.MlflowClient(tracking_uri=(layout.root / "tracker" / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("irepo").experiment_id])
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((e.step, e.value) for e in losses) == [(1, 11), (2, 12), (3, 13), (4, 21), (5, 22)]
    assert [e.value for e in client.get_metric_history(run.info.run_id, "round/win_rate/initial/truth")] == [0.6, 0.6]


@pytest.mark.slow
def test_wandb_offline(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track("wandb", layout, [record(0), record(1)], {"seed": 3})
    assert not tracking._failed
    (events,) = (layout.root / "tracker" / "wandb").glob("offline-run-*/run-*.wandb")
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"round/win_rate/initial/truth" in content
    assert json.loads((layout.root / "tracker" / "wandb.json").read_text())["run"].encode() in content


def test_a_failing_tracker_causes_one_warning_and_stops_nothing(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space for curves")

    monkeypatch.setattr(tracking, "_TensorBoard", fail)
    with caplog.at_level(logging.WARNING, "irepo"):
        track("tensorboard", layout, [record(0)], {})
        track("tensorboard", layout, [record(0), record(1)], {})
    assert [r.getMessage() for r in caplog.records if "no space for curves" in r.getMessage()] == [
        "tracker=tensorboard failed; this process sends it nothing more, and the run continues: no space for curves"
    ]
    assert not (layout.root / "tracker" / "tensorboard.json").exists()  # the next attempt tells it all


def test_one_that_is_not_installed_is_refused_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    check_tracker("none")
    with pytest.raises(UserError) as caught:
        check_tracker("mlflow")
    assert "pip install mlflow-skinny" in str(caught.value)


def test_off_by_default() -> None:
    assert compose_config(["run=demo"]).tracker == "none"
    assert compose_config(["run=demo", "tracker=wandb"]).tracker == "wandb"
    with pytest.raises(UserError, match="tracker"):
        compose_config(["run=demo", "tracker=notebook"])
