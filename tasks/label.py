"""Task `label`: the panel votes, and votes become preferences."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.labeling.settings import LabelSpec
from tasks.labeling.stage import run
from tasks.progress import progress_bar
from tasks.report import stage_result


@task(name="label", task_run_name="label", persist_result=True, result_serializer="json", cache_policy=NO_CACHE)
def label(spec: LabelSpec) -> dict[str, Any]:
    """Run or adopt the label stage of `spec`."""
    with progress_bar("label", spec.round) as progress:
        manifest = run(spec, progress)
    return stage_result(manifest, spec.folder)
