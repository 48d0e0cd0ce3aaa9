"""Task `evaluate`: judges' votes on held-out responses, benchmarks, and the round's figures."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.stage import Spec
from tasks.engines import pause_engines
from tasks.evaluation.harness.process import HarnessDied
from tasks.report import StageResult, run_with_progress
from tasks.retry import died


@task(
    name="evaluate",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=died(HarnessDied),
)
def evaluate(spec: Spec) -> StageResult:
    """Run or adopt a stage of an evaluation."""
    pause_engines()
    return run_with_progress(spec)
