"""The part that the four Prefect tasks share: show progress, run the stage, log and return a small result."""

from typing import TypedDict

from prefect.logging import get_run_logger

from storage.artifact import stage_name
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
    with progress_bar(stage_title(spec), spec.round) as progress:
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
    get_run_logger().info(
        "%s of round %d: %s in %.1f s, %s",
        stage_title(spec),
        manifest.round,
        manifest.rows,
        manifest.seconds,
        spec.folder,
    )
    return result


def stage_title(spec: Spec) -> str:
    """The stage's folder below its round, such as evaluate/responses: the name that people see."""
    return stage_name(spec.folder).partition("/")[2] or stage_name(spec.folder)
