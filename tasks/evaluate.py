"""Task `evaluate`: held-out responses, the judges' votes on them, and the round's figures."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.evaluation.settings import EvaluateSpec
from tasks.evaluation.stage import run as run_metrics
from tasks.generate import kept_engine, pause_engines
from tasks.generation.engines import EngineDied
from tasks.generation.settings import GenerateSpec
from tasks.generation.stage import run as run_generation
from tasks.labeling.judging import run_judging
from tasks.labeling.settings import JudgeSpec, LabelSpec
from tasks.labeling.stage import run as run_label
from tasks.progress import progress_bar
from tasks.report import stage_result
from tasks.retry import died


@task(
    name="evaluate",
    task_run_name="evaluate",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=died(EngineDied),
)
def evaluate(
    responses: GenerateSpec, judge: JudgeSpec, metrics: EvaluateSpec, pairs: LabelSpec | None = None
) -> dict[str, Any]:
    """Run or adopt the stages of an evaluation; each builds on the content of the one before.

    pairs: the panel's votes on these very responses, of the initial policy, where the run has held-out pairs.
    """
    with progress_bar("evaluate", metrics.round) as progress:
        engine = kept_engine(responses.settings.engine, trust_remote_code=responses.settings.trust_remote_code)
        written = run_generation(responses, progress, engine=engine)
        pause_engines()
        judge = judge.model_copy(update={"inputs": judge.inputs | {"responses": written.content}})
        judged = run_judging(judge, progress)
        inputs = metrics.inputs | {"responses": written.content, "judgements": judged.content}
        if pairs is not None:
            labelled = run_label(pairs.model_copy(update={"inputs": pairs.inputs | {"responses": written.content}}))
            inputs["pairs"] = labelled.content
        figures = run_metrics(metrics.model_copy(update={"inputs": inputs}), progress)
    seconds = written.seconds + judged.seconds + figures.seconds
    return stage_result(figures, metrics.folder) | {"seconds": seconds, "responses": written.content}
