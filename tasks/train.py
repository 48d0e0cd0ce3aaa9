"""Task `train`: regress implicit reward differences on the round's targets."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.stage import Spec
from tasks.engines import pause_engines
from tasks.report import StageResult, run_with_progress
from tasks.retry import died
from tasks.training.launch import TrainingDied


@task(
    name="train",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=died(TrainingDied),
)
def train(spec: Spec) -> StageResult:
    """Run or adopt a stage that makes a policy."""
    pause_engines()
    return run_with_progress(spec)
