"""The harness stage: lm-eval's results of every task. A run that was stopped does not repeat finished tasks.

Publishes results_<task>.json and samples_<task>/samples_*.jsonl as lm-eval writes them, without the fields for date,
duration and machine, which the manifest has. The same work therefore gives the same bytes.
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
_VARYING = ("date", "start_time", "end_time", "total_evaluation_time_seconds", "pretty_env_info",
            "git_hash", "upper_git_hash")  # fmt: skip


class Score(BaseModel):
    """One metric of one task. stderr: lm-eval's standard error, or None."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    stderr: float | None
    higher_is_better: bool


class HarnessScores(BaseModel):
    """[task][metric,filter], as lm-eval names them.

    average: mean of the tasks' metrics, if there are several tasks and each names its metric; otherwise None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scores: dict[str, dict[str, Score]]
    average: float | None


def run(spec: HarnessSpec, progress: Progress = silent) -> Manifest:
    """Run or adopt the harness stage; only unfinished tasks are run.

    Raises UserError like process.ask, and when a task does not have the metric in its settings.
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
    contents = {task.task: json.loads(results[task.task].read_text(encoding="utf-8")) for task in tasks}
    scores = {task.task: _scores(task, contents[task.task], results[task.task]) for task in tasks}
    rows = sum(count["effective"] for result in contents.values() for count in result.get("n-samples", {}).values())
    summary = HarnessScores(scores=scores, average=_average(tasks, scores))
    return Outcome(paths=paths, rows={"documents": rows}, summary=summary.model_dump(mode="json"))


def _ask(spec: HarnessSpec, missing: list[HarnessTask], results: dict[str, Path], progress: Progress) -> None:
    done = len(results) - len(missing)
    # If this process is killed, the next attempt deletes folders with such a name.
    with TemporaryDirectory(prefix=".lm-eval-", suffix=".tmp", dir=spec.folder) as work:
        for name in ask(spec, missing, Path(work)):
            _publish(spec, name, Path(work) / name, results[name])
            done += 1
            progress(done, len(results), "tasks")


def _publish(spec: HarnessSpec, name: str, work: Path, path: Path) -> None:
    """Publish lm-eval's files of one task, without the time in their names. Results come last: they mark it as done."""
    for written in sorted(work.rglob("samples_*.jsonl")):
        task = written.stem.removeprefix("samples_").rpartition("_")[0]
        _folder(spec, name).mkdir(exist_ok=True)
        publish_text(_folder(spec, name) / f"samples_{task}.jsonl", written.read_text(encoding="utf-8"))
    (written,) = work.rglob("results_*.json")
    result = json.loads(written.read_text(encoding="utf-8"))
    kept = {key: value for key, value in result.items() if key not in _VARYING}
    publish_text(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    mark_part(spec, path)


def _folder(spec: HarnessSpec, name: str) -> Path:
    return spec.folder / f"samples_{name}"


def _samples(spec: HarnessSpec, name: str) -> list[Path]:
    return list(_folder(spec, name).glob("samples_*.jsonl"))


def _scores(task: HarnessTask, result: dict[str, Any], path: Path) -> dict[str, Score]:
    """The task's metric, or all its metrics if its settings name none."""
    own = result["results"][task.task]
    better = result.get("higher_is_better", {}).get(task.task, {})
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
        known = [key for key in own if "," in key and "_stderr," not in key]
        raise UserError(
            f"the task {task.task} has {'several metrics' if scores else 'no metric'} {task.metric!r}",
            where=str(path),
            remedy=f"choose one of: {' '.join(known)}",
        )
    return scores


def _average(tasks: list[HarnessTask], scores: dict[str, dict[str, Score]]) -> float | None:
    if len(tasks) < 2 or any(task.metric is None for task in tasks):
        return None
    return sum(next(iter(metrics.values())).value for metrics in scores.values()) / len(scores)
