"""Task `generate`: a policy writes responses. Engines stay open between stages, since starting one takes long."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.stage import Spec
from tasks.engines import engine_for
from tasks.generation.engines import EngineDied
from tasks.report import StageResult, run_with_progress
from tasks.retry import died


@task(
    name="generate",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=died(EngineDied),
)
def generate(spec: Spec) -> StageResult:
    """Run or adopt a stage that samples."""
    return run_with_progress(spec, engine_for(spec))
