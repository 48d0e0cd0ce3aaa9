"""Sends a run's curves to TensorBoard, Weights & Biases or MLflow, from the run folder's files.

After every round the tracker receives the round's figures and training curve, each round once. A tracker that fails
causes one warning and never stops the run. Trackers' packages are imported when a tracker is opened.
"""

import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypedDict

from storage.errors import UserError
from storage.files import canonical_json, digest, publish_text
from storage.layout import RunLayout
from tasks.evaluation.record import RoundRecord

log = logging.getLogger("irepo")

TrackerKind = Literal["none", "tensorboard", "wandb", "mlflow"]
FOLDER = "tracker"  # in the run folder: which rounds were sent, and the files of trackers that write there
_PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow-skinny"),
}  # fmt: skip  (kind -> module, distribution)
_UNCURVED = {"step", "epoch"}
_BATCH = 500  # metrics in one of MLflow's calls; it takes 1000

Point = tuple[int, dict[str, float]]  # step, values by name


class Sent(TypedDict):
    """What a tracker holds of a run, kept beside its files."""

    run: str | None  # id that the tracker gave the run
    rounds: dict[str, str]  # round -> digest of what was sent


class Tracker(Protocol):
    """Receives points. axis: rounds, or optimizer steps counted over all rounds."""

    def log(self, axis: Literal["round", "step"], points: Sequence[Point]) -> None: ...

    def close(self) -> None: ...


def check_tracker(kind: TrackerKind) -> None:
    """Raise UserError when the tracker's package is not installed."""
    if kind != "none" and find_spec(_PACKAGES[kind][0]) is None:
        raise UserError(
            f"{_PACKAGES[kind][1]} is not installed",
            where=f"tracker={kind}",
            remedy=f"pip install {_PACKAGES[kind][1]} (here: uv pip install), or tracker=none",
        )


def track(kind: TrackerKind, layout: RunLayout, records: Sequence[RoundRecord], config: Any) -> None:
    """Send the tracker every round of `records` that is new or changed. Never raises."""
    if kind == "none" or kind in _failed:
        return
    try:
        _send(kind, layout, records, config)
    except Exception as error:
        _failed.add(kind)
        log.warning("tracker=%s failed; this process sends it nothing more, and the run continues: %s", kind, error)


#: Trackers that failed in this process.
_failed: set[str] = set()


def _send(kind: str, layout: RunLayout, records: Sequence[RoundRecord], config: Any) -> None:
    state = layout.root / FOLDER / f"{kind}.json"
    sent: Sent = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {"run": None, "rounds": {}}
    digests = {
        str(record.round): digest([record.figures.model_dump(mode="json"), record.seconds]) for record in records
    }
    new = [record for record in records if sent["rounds"].get(str(record.round)) != digests[str(record.round)]]
    if not new:
        return
    with _opened(kind, layout, sent, config) as tracker:
        for record in new:
            tracker.log("round", [(record.round, round_values(record))])
            tracker.log("step", training_points(layout, record.round))
            sent["rounds"][str(record.round)] = digests[str(record.round)]
    publish_text(state, canonical_json(sent) + "\n")


def round_values(record: RoundRecord) -> dict[str, float]:
    """The figures of a round's record by name: means without their intervals."""
    figures = record.figures
    values = {"tokens": figures.tokens, "finish_rate": figures.finish_rate, "unique_rate": figures.unique_rate}
    values["kl"] = figures.kl.mean
    for source, judges in figures.win_rate.items():
        values |= {f"win_rate/{source}/{judge}": rate.mean for judge, rate in judges.items()}
    values |= {f"rates/{name}": rate.mean for name, rate in figures.rates.items()}
    values |= {f"seconds/{stage}": seconds for stage, seconds in record.seconds.items()}
    for task, scores in (figures.harness.scores if figures.harness else {}).items():
        values |= {f"harness/{task}/{metric.replace(',', '-')}": score.value for metric, score in scores.items()}
    if figures.mt_bench and figures.mt_bench.overall:
        values["mt_bench"] = figures.mt_bench.overall.mean
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def training_points(layout: RunLayout, number: int) -> list[Point]:
    """Training metrics of a round; steps continue the count of the rounds before."""
    before = sum(len(_lines(layout, earlier)) for earlier in range(1, number))
    return [
        (before + row["step"], {
            f"train/{name}": float(value) for name, value in row.items()
            if name not in _UNCURVED and isinstance(value, int | float) and math.isfinite(value)
        })
        for row in (json.loads(line) for line in _lines(layout, number))
    ]  # fmt: skip


def _lines(layout: RunLayout, number: int) -> list[str]:
    path = layout.stage(number, "train") / "metrics.jsonl"
    return path.read_text(encoding="utf-8").splitlines() if number and path.is_file() else []


@contextmanager
def _opened(kind: str, layout: RunLayout, sent: Sent, config: Any) -> Iterator[Tracker]:
    opening: Mapping[str, Callable[[RunLayout, Sent, Any], Tracker]]
    opening = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow}
    tracker = opening[kind](layout, sent, config)
    try:
        yield tracker
    finally:
        tracker.close()


class _TensorBoard:
    """Event files in the run folder: tensorboard --logdir runs/<name>/tracker."""

    def __init__(self, layout: RunLayout, sent: Sent, config: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(layout.root / FOLDER / "tensorboard")

    def log(self, axis: str, points: Sequence[Point]) -> None:
        for step, values in points:
            for name, value in values.items():
                self._writer.add_scalar(name if axis == "step" else f"round/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """One W&B run per run folder, continued after a restart. W&B's WANDB_* variables set project, account and mode."""

    def __init__(self, layout: RunLayout, sent: Sent, config: Any) -> None:
        import wandb

        folder = layout.root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        sent["run"] = sent["run"] or secrets.token_hex(4)
        project = os.environ.get("WANDB_PROJECT", "irepo")
        self._run: Any = wandb.init(
            project=project, id=sent["run"], resume="allow", name=layout.root.name, dir=str(folder), config=config
        )
        self._run.define_metric("round/*", step_metric="round/number")
        self._run.define_metric("train/*", step_metric="train/step")

    def log(self, axis: str, points: Sequence[Point]) -> None:
        for step, values in points:
            if axis == "step":
                self._run.log({"train/step": step} | values)
            else:
                self._run.log({"round/number": step} | {f"round/{name}": value for name, value in values.items()})

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """One MLflow run per run folder, at MLFLOW_TRACKING_URI; without that variable, in files of the run folder."""

    def __init__(self, layout: RunLayout, sent: Sent, config: Any) -> None:
        address = os.environ.get("MLFLOW_TRACKING_URI")
        if not address:
            address = (layout.root / FOLDER / "mlflow").resolve().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 writes files only with this setting
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=address)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "irepo")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run = sent["run"]
        if not run:
            run = sent["run"] = str(self._client.create_run(number, run_name=layout.root.name).info.run_id)
            self._client.log_dict(run, config, "config.json")
        self._run = run

    def log(self, axis: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name if axis == "step" else f"round/{name}", value, 0, step)
            for step, values in points
            for name, value in values.items()
        ]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run, metrics=metrics[start : start + _BATCH])

    def close(self) -> None:
        self._client.set_terminated(self._run)
