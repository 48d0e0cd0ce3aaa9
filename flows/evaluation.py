"""The evaluation of a policy on held-out prompts: responses, judges' votes, benchmarks, figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.chain import policy_of
from flows.digests import files_of
from flows.plan import Plan
from flows.specs import generate_spec, label_spec, pairs_spec
from flows.stages import Stages
from storage.artifact import Artifact
from storage.stage import Spec
from tasks.evaluation.harness.settings import HarnessRunSettings, HarnessSpec, ModelSettings, harness_version
from tasks.evaluation.mt_bench.dialogue import FILE as DIALOGUES
from tasks.evaluation.mt_bench.dialogue import DialogueSettings, DialogueSpec
from tasks.evaluation.mt_bench.grading import GradeSettings, GradeSpec
from tasks.evaluation.mt_bench.settings import GraderSettings
from tasks.evaluation.settings import (
    EvaluateSpec,
    ImplicitReward,
    JudgeSpec,
    JudgingSettings,
    MetricsSettings,
)
from tasks.generation.prompts import HELDOUT
from tasks.generation.settings import GenerateSpec
from tasks.panel.annotators.human import HumanSettings

RESPONSES, PAIRS = "evaluate/responses", "evaluate/pairs"


def evaluate_named(stages: Stages, plan: Plan) -> None:
    """Held-out responses of the policies in evaluation.against, once a run."""
    prompts = stages.prompts(plan) / HELDOUT
    for name, policy in plan.named.items():
        stages(heldout_spec(plan, 0, plan.folder(0, f"against/{name}"), policy=policy, prompts=prompts))


def evaluate_policy(stages: Stages, plan: Plan, number: int, chain: Sequence[int], policy: Artifact) -> Artifact:
    """Evaluate the policy that a round ended with (0: the initial one) beside the initial policy, the one that the
    round started from, and the policies in evaluation.against."""
    prompts = stages.prompts(plan) / HELDOUT
    responses = stages(heldout_spec(plan, number, plan.folder(number, RESPONSES), policy=policy, prompts=prompts))
    mt_bench = _mt_bench(stages, plan, number, policy)
    rivals = {name: stages.made(plan, rival, RESPONSES) for name, rival in rivals_of(number, chain).items()}
    rivals |= {name: stages.made(plan, 0, f"against/{name}") for name in plan.config.evaluation.against}
    judgements = stages(judge_spec(plan, number, prompts=prompts, responses={"policy": responses} | rivals))
    harness = stages(harness_spec(stages, plan, number, policy)) if plan.config.harness.tasks else None
    pairs, evaluations = None, dict[str, Artifact]()
    if labels_pairs(plan) and number == 0:
        pairs = stages(_pairs_spec(stages, plan, prompts=prompts, responses=responses))
    elif labels_pairs(plan):
        pairs = stages.made(plan, 0, PAIRS)
        earlier = {"initial": 0, "previous": chain[-1]}
        evaluations = {name: stages.made(plan, rival, "evaluate") for name, rival in earlier.items()}
    return stages(
        EvaluateSpec(
            folder=plan.folder(number, "evaluate"),
            round=number,
            seed=plan.config.seed,
            settings=MetricsSettings(
                bootstrap=plan.config.evaluation.bootstrap,
                divergence_tokens=plan.config.evaluation.batch_tokens,
                truth=plan.config.evaluation.truth,
                margin=_implicit_reward(plan) if evaluations else None,
                dtype=plan.config.training.dtype,
                device=plan.config.training.device,
                trust_remote_code=plan.config.policy.trust_remote_code,
            ),
            responses=responses,
            judgements=judgements,
            policy=policy,
            initial=policy_of(stages, plan, 0),
            prompts=prompts,
            rivals=rivals,
            pairs=pairs,
            evaluations=evaluations,
            harness=harness,
            mt_bench=mt_bench,
        )
    )


def rivals_of(number: int, chain: Sequence[int]) -> dict[str, int]:
    """The policies of the run that a round's policy is compared with, by the round that made them.

    `previous` is the policy that the round started from, unless that is the initial one.
    """
    if number == 0:
        return {}
    return {"initial": 0} if chain[-1] == 0 else {"initial": 0, "previous": chain[-1]}


def heldout_spec(plan: Plan, number: int, folder: Path, *, policy: Artifact, prompts: Artifact) -> GenerateSpec:
    """Responses to held-out prompts. They share no randomness with those that are trained on.

    All policies of a run draw response j of a prompt with the same random numbers: a policy that did not change gives
    the same responses and ties exactly, and smaller differences are seen with the same number of prompts.
    """
    sampling = plan.config.sampling.drawing(plan.config.evaluation.responses)
    return generate_spec(plan, number, folder, policy=policy, prompts=prompts, sampling=sampling, seed=1, draw=0)


def judge_spec(plan: Plan, number: int, *, prompts: Artifact, responses: Mapping[str, Artifact]) -> JudgeSpec:
    evaluation = plan.config.evaluation
    return JudgeSpec(
        folder=plan.folder(number, "evaluate/judgements"),
        round=number,
        seed=plan.config.seed,
        settings=JudgingSettings(
            judges=evaluation.judges, rates=evaluation.rates, reasoning_end=plan.config.policy.reasoning_end
        ),
        responses=dict(responses),
        prompts=prompts,
        judge_files=dict(plan.judge_files),
        rate_files=dict(plan.rate_files),
        answers=plan.layout.answers,
        on_outage=evaluation.on_outage,
        cluster=plan.config.cluster,
    )


def labels_pairs(plan: Plan) -> bool:
    """Whether there are held-out pairs: the panel, without people, labels the initial policy's held-out responses, or
    the preference set of offline training has pairs of held-out prompts.

    Not with a reference that moves: evaluations hold log-probabilities under policies that rounds ended with.
    """
    annotators = plan.config.panel.annotators.values()
    fixed = isinstance(plan.config.objective.reference, str)
    if plan.config.data is not None:  # the set's own pairs; prompts of another file have none
        return fixed and isinstance(plan.config.prompts.heldout, float)
    return (
        fixed
        and plan.config.evaluation.pairs
        and any(not isinstance(annotator, HumanSettings) for annotator in annotators)
    )


def _pairs_spec(stages: Stages, plan: Plan, *, prompts: Artifact, responses: Artifact) -> Spec:
    """The held-out pairs of the run: those of the preference set, or the panel's votes on the initial policy's
    held-out responses. People are not asked."""
    if plan.config.data is not None:
        return pairs_spec(plan, 0, PAIRS, data=stages.data(plan), prompts=stages.prompts(plan))
    panel = {name: each for name, each in plan.config.panel.annotators.items() if not isinstance(each, HumanSettings)}
    policies = {"policy": plan.initial, "previous": plan.before_initial, "initial": plan.initial}
    return label_spec(
        plan, 0, plan.folder(0, PAIRS), responses=responses, prompts=prompts, policies=policies, annotators=panel
    )


def _implicit_reward(plan: Plan) -> ImplicitReward:
    objective = plan.config.objective
    assert isinstance(objective.reference, str)  # see labels_pairs
    return ImplicitReward(scale=objective.margin_scale, reference=objective.reference)


def _mt_bench(stages: Stages, plan: Plan, number: int, policy: Artifact) -> Artifact | None:
    """MT-Bench's answers by the policy, and their grades; None where it is not wanted."""
    settings = plan.config.mt_bench
    if settings.questions is None or settings.judge is None:
        return None
    dialogues = stages(
        DialogueSpec(
            folder=plan.folder(number, "evaluate/dialogues"),
            round=number,
            seed=plan.config.seed + 1,
            settings=DialogueSettings(
                max_tokens=settings.max_tokens,
                engine=plan.config.engine,
                cluster=plan.config.cluster,
                trust_remote_code=plan.config.policy.trust_remote_code,
                reasoning_end=plan.config.policy.reasoning_end,
            ),
            policy=policy,
            questions=stages.outside(settings.questions),
            references=stages.outside(settings.references) if settings.references else None,
        )
    )
    return stages(_grade_spec(plan, number, settings.judge, dialogues))


def _grade_spec(plan: Plan, number: int, judge: GraderSettings, dialogues: Artifact) -> GradeSpec:
    return GradeSpec(
        folder=plan.folder(number, "evaluate/grades"),
        round=number,
        seed=plan.config.seed,
        settings=GradeSettings(judge=judge),
        dialogues=dialogues / DIALOGUES,
        judge_files=files_of(judge),
        answers=plan.layout.answers,
        on_outage=plan.config.evaluation.on_outage,
    )


def harness_spec(stages: Stages, plan: Plan, number: int, policy: Artifact) -> HarnessSpec:
    """lm-eval's tasks on the policy of a round."""
    harness, engine = plan.config.harness, plan.config.engine
    return HarnessSpec(
        folder=plan.folder(number, "evaluate/harness"),
        round=number,
        seed=0,  # lm-eval has its own
        settings=HarnessRunSettings(
            harness=harness,
            model=ModelSettings(
                dtype=engine.dtype,
                device=plan.config.training.device,
                max_model_len=engine.max_model_len,
                enforce_eager=engine.enforce_eager,
                tensor_parallel=engine.tensor_parallel,
                gpu_memory_utilization=engine.gpu_memory_utilization,
                kv_cache_gib=engine.kv_cache_gib,
                trust_remote_code=plan.config.policy.trust_remote_code,
            ),
        ),
        policy=policy,
        lm_eval=harness_version() or "not installed",
        include=[stages.outside(folder) for folder in harness.include],
        data={task: stages.outside(path) for task, path in harness.data.items()},
    )
