"""The part that the four Prefect tasks share: show progress, run the stage, log and return a small result."""

from pathlib import PurePosixPath
from typing import TypedDict

from prefect.logging import get_run_logger

from storage.artifact import stage_name
from storage.manifest import Manifest
from storage.stage import Spec
from tasks.progress import progress_bar
from tasks.run import run_stage_of


class StageResult(TypedDict):
    """What Prefect stores of a finished stage, as JSON. The manifest in `folder` says the same and more."""

    stage: str
    round: int
    folder: str
    key: str
    content: str
    seconds: float
    rows: dict[str, int]
    summary: dict[str, object]


def run_with_progress(spec: Spec, engine: object = None) -> StageResult:
    """Run or adopt the stage of `spec`; returns where its files are, their digest, and its figures."""
    with progress_bar(stage_title(spec), spec.round, run_name(spec)) as progress:
        manifest = run_stage_of(spec, progress, engine)
    result: StageResult = {
        "stage": manifest.stage,
        "round": manifest.round,
        "folder": str(spec.folder),
        "key": manifest.key,
        "content": manifest.content,
        "seconds": manifest.seconds,
        "rows": manifest.rows,
        "summary": manifest.summary,
    }
    get_run_logger().info(sentence(spec, manifest))
    return result


def sentence(spec: Spec, manifest: Manifest) -> str:
    """What a finished stage made, and where it is, for the log."""
    rows = [f"{count:,} {name.removesuffix('.parquet').replace('_', ' ')}" for name, count in manifest.rows.items()]
    *first, last = rows or ["no rows"]
    made = f"{', '.join(first)} and {last}" if first else last
    took = f"{manifest.seconds:.1f} s"
    return f"Round {manifest.round}, {stage_title(spec)}: finished after {took} with {made}, in {spec.folder}."


def run_name(spec: Spec) -> str:
    """The name of the run folder that a stage is in."""
    below = len(PurePosixPath(stage_name(spec.folder)).parts)
    return spec.folder.parts[-below - 1] if len(spec.folder.parts) > below else ""


def stage_title(spec: Spec) -> str:
    """The stage's folder below its round, such as evaluate/responses: the name that people see."""
    return stage_name(spec.folder).partition("/")[2] or stage_name(spec.folder)
