"""Task `evaluate`: held-out responses, the judges' votes on them, and the round's figures."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.evaluation.harness.process import HarnessDied
from tasks.evaluation.harness.settings import HarnessSpec
from tasks.evaluation.harness.stage import run as run_harness
from tasks.evaluation.judging import run_judging
from tasks.evaluation.mt_bench.dialogue import DialogueSpec
from tasks.evaluation.mt_bench.dialogue import run as run_dialogue
from tasks.evaluation.mt_bench.grading import GradeSpec, run_grading
from tasks.evaluation.settings import EvaluateSpec, JudgeSpec
from tasks.evaluation.stage import run as run_metrics
from tasks.generate import kept_engine, pause_engines
from tasks.generation.engines import EngineDied
from tasks.generation.settings import GenerateSpec
from tasks.generation.stage import run as run_generation
from tasks.labeling.settings import LabelSpec
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
    retry_condition_fn=died(EngineDied, HarnessDied),
)
def evaluate(
    responses: GenerateSpec,
    judge: JudgeSpec,
    metrics: EvaluateSpec,
    pairs: LabelSpec | None = None,
    *,
    harness: HarnessSpec | None = None,
    mt_bench: tuple[DialogueSpec, GradeSpec] | None = None,
) -> dict[str, Any]:
    """Run or adopt the stages of an evaluation; each builds on the content of those before.

    pairs: the panel's votes on these very responses, of the initial policy, where the run has held-out pairs.
    """
    with progress_bar("evaluate", metrics.round) as progress:
        engine = kept_engine(responses.settings.engine, trust_remote_code=responses.settings.trust_remote_code)
        written = run_generation(responses, progress, engine=engine)
        said = run_dialogue(mt_bench[0], engine, progress) if mt_bench is not None else None
        pause_engines()
        judge = judge.model_copy(update={"inputs": judge.inputs | {"responses": written.content}})
        judged = run_judging(judge, progress)
        inputs = metrics.inputs | {"responses": written.content, "judgements": judged.content}
        seconds = written.seconds + judged.seconds
        if mt_bench is not None and said is not None:
            grade = mt_bench[1].model_copy(update={"inputs": mt_bench[1].inputs | {"dialogues": said.content}})
            graded = run_grading(grade, progress)
            inputs["mt_bench"] = graded.content
            seconds += said.seconds + graded.seconds
        if harness is not None:
            asked = run_harness(harness, progress)
            inputs["harness"] = asked.content
            seconds += asked.seconds
        if pairs is not None:
            labelled = run_label(pairs.model_copy(update={"inputs": pairs.inputs | {"responses": written.content}}))
            inputs["pairs"] = labelled.content
        figures = run_metrics(metrics.model_copy(update={"inputs": inputs}), progress)
    seconds += figures.seconds
    return stage_result(figures, metrics.folder) | {"seconds": seconds, "responses": written.content}
