"""The harness stage: lm-eval's results of every task, each a part that a run which was stopped does not ask again.

Publishes results_<task>.json and samples_<task>/samples_*.jsonl as lm-eval writes them, less the fields that say when,
how long and on what machine (the manifest has them): the same work gives the same bytes.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.errors import UserError
from storage.files import publish_text
from storage.manifest import Manifest
from storage.stage import Outcome, Progress, has_part, mark_part, run_stage, silent
from tasks.evaluation.harness.process import ask
from tasks.evaluation.harness.settings import HarnessSpec, HarnessTask

#: Fields of lm-eval's results that differ between two runs of the same work.
_OF_THE_MOMENT = ("date", "start_time", "end_time", "total_evaluation_time_seconds", "pretty_env_info",
                  "git_hash", "upper_git_hash")  # fmt: skip


class Score(BaseModel):
    """One metric of one task. stderr: lm-eval's standard error, None where it gives none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    stderr: float | None
    higher_is_better: bool


class HarnessScores(BaseModel):
    """[task][metric,filter], as lm-eval names them.

    average: mean over tasks of their metric, where more than one is asked and every one names its metric; else None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scores: dict[str, dict[str, Score]]
    average: float | None


def run(spec: HarnessSpec, progress: Progress = silent) -> Manifest:
    """Run every task of `spec`, or adopt what is done.

    Raises UserError as process.ask does, and when a task has not the metric that its settings name.
    """
    return run_stage(spec, lambda: _evaluate(spec, progress))


def _evaluate(spec: HarnessSpec, progress: Progress) -> Outcome:
    tasks = spec.settings.harness.tasks
    results = {task.task: spec.folder / f"results_{task.task}.json" for task in tasks}
    missing = [task for task in tasks if not has_part(spec, results[task.task])]
    progress(len(tasks) - len(missing), len(tasks), "tasks")
    if missing:
        _ask(spec, missing, results, progress)
    paths = [*results.values(), *sorted(path for task in tasks for path in _samples(spec, task.task))]
    read = {task.task: json.loads(results[task.task].read_text(encoding="utf-8")) for task in tasks}
    scores = {task.task: _scores(task, read[task.task], results[task.task]) for task in tasks}
    rows = sum(each["effective"] for result in read.values() for each in result.get("n-samples", {}).values())
    summary = HarnessScores(scores=scores, average=_average(tasks, scores))
    return Outcome(paths=paths, rows={"documents": rows}, summary=summary.model_dump(mode="json"))


def _ask(spec: HarnessSpec, missing: list[HarnessTask], results: dict[str, Path], progress: Progress) -> None:
    done = len(results) - len(missing)
    # A name that the next attempt sweeps away, should this one be killed.
    with TemporaryDirectory(prefix=".lm-eval-", suffix=".tmp", dir=spec.folder) as work:
        for name in ask(spec, missing, Path(work)):
            _publish(spec, name, Path(work) / name, results[name])
            done += 1
            progress(done, len(results), "tasks")


def _publish(spec: HarnessSpec, name: str, work: Path, path: Path) -> None:
    """lm-eval's files of one task, under names without the time; results last, since they mark the task as done."""
    for written in sorted(work.rglob("samples_*.jsonl")):
        task = written.stem.removeprefix("samples_").rpartition("_")[0]
        _folder(spec, name).mkdir(exist_ok=True)
        publish_text(_folder(spec, name) / f"samples_{task}.jsonl", written.read_text(encoding="utf-8"))
    (written,) = work.rglob("results_*.json")
    found = json.loads(written.read_text(encoding="utf-8"))
    kept = {key: value for key, value in found.items() if key not in _OF_THE_MOMENT}
    publish_text(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    mark_part(spec, path)


def _folder(spec: HarnessSpec, name: str) -> Path:
    return spec.folder / f"samples_{name}"


def _samples(spec: HarnessSpec, name: str) -> list[Path]:
    return list(_folder(spec, name).glob("samples_*.jsonl"))


def _scores(task: HarnessTask, found: dict[str, Any], path: Path) -> dict[str, Score]:
    """The task's metric, or all that it has where none is named."""
    own = found["results"][task.task]
    better = found.get("higher_is_better", {}).get(task.task, {})
    scores = {}
    for key, value in own.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        if task.metric in (None, metric, key):
            error = own.get(f"{metric}_stderr,{filtered}")
            scores[key] = Score(
                value=value,
                stderr=error if isinstance(error, int | float) else None,
                higher_is_better=better.get(metric) is not False,
            )
    if not scores or (task.metric is not None and len(scores) > 1):
        there = [key for key in own if "," in key and "_stderr," not in key]
        raise UserError(
            f"the task {task.task} has {'several' if scores else 'no'} metrics {task.metric!r}",
            where=str(path),
            remedy=f"name one of: {' '.join(there)}",
        )
    return scores


def _average(tasks: list[HarnessTask], scores: dict[str, dict[str, Score]]) -> float | None:
    if len(tasks) < 2 or any(task.metric is None for task in tasks):
        return None
    return sum(next(iter(each.values())).value for each in scores.values()) / len(scores)
