"""Task `train`: regress implicit reward differences on the round's targets."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.progress import progress_bar
from tasks.report import stage_result
from tasks.retry import died
from tasks.training.launch import TrainingDied, launch
from tasks.training.settings import TrainSpec


@task(
    name="train",
    task_run_name="train",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=died(TrainingDied),
)
def train(spec: TrainSpec) -> dict[str, Any]:
    """Run or adopt the train stage of `spec`, in this process or its own, as its settings say."""
    with progress_bar("train", spec.round) as progress:
        manifest = launch(spec, progress)
    return stage_result(manifest, spec.folder)
