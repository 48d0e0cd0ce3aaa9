"""Specs of evaluations: held-out responses of a policy and its rivals, the panel's pairs, judgements, metrics."""

from pathlib import Path

from flows.plan import Plan
from tasks.evaluation.settings import EvaluateSpec, JudgeSpec, JudgingSettings, MarginSettings, MetricsSettings
from tasks.generation.prompts import HELDOUT
from tasks.generation.settings import GenerateSpec
from tasks.labeling.settings import LabelSpec


def heldout_spec(
    plan: Plan, inputs: dict[str, str], *, policy: Path, folder: Path, round_number: int = 0
) -> GenerateSpec:
    """Responses of `policy` to held-out prompts."""
    return GenerateSpec(
        folder=folder,
        round=round_number,
        seed=plan.config.seed + 1,  # held-out samples share no randomness with training ones
        inputs={"prompts": inputs["prompts"], "policy": inputs["policy"]},
        settings=plan.generation(plan.config.evaluation.responses),
        policy=policy,
        prompts=plan.layout.prompts / HELDOUT,
    )


def against_spec(plan: Plan, name: str, inputs: dict[str, str]) -> GenerateSpec:
    """Responses of a policy named in evaluation.against, once a run."""
    return heldout_spec(plan, inputs, policy=plan.named[name], folder=plan.layout.stage(0, "against") / name)


def labels_pairs(plan: Plan) -> bool:
    """Whether the panel, people apart, labels held-out pairs.

    Not with a reference that moves: evaluations have log-probabilities under policies that rounds ended with.
    """
    annotators = plan.config.panel.annotators.values()
    fixed = isinstance(plan.config.objective.reference, str)
    return fixed and plan.config.evaluation.pairs and any(each.kind != "human" for each in annotators)


def pairs_spec(plan: Plan, inputs: dict[str, str]) -> LabelSpec | None:
    """The panel's votes on the initial policy's held-out responses, once a run; None where they are not wanted.

    People are not asked. inputs: digests of prompts, responses and the initial policy.
    """
    if not labels_pairs(plan):
        return None
    panel = {name: each for name, each in plan.config.panel.annotators.items() if each.kind != "human"}
    asked = {f"asked:{name}": inputs["initial"] for name in plan.policies_asked}
    models = {f"annotator:{name}": plan.model_inputs.get(f"annotator:{name}") for name in panel}
    given = {name: value for name, value in inputs.items() if name != "initial"} | asked
    spec = plan.label(0, 0, 0, given)
    return spec.model_copy(
        update={
            "folder": plan.layout.stage(0, "evaluate") / "pairs",
            "inputs": given | {name: value for name, value in models.items() if value is not None},
            "settings": spec.settings.model_copy(update={"annotators": panel}),
            "responses": plan.layout.stage(0, "evaluate") / "responses",
            "prompts": plan.layout.prompts / HELDOUT,
        }
    )


def evaluation_specs(
    plan: Plan, round_number: int, base: int, inputs: dict[str, str]
) -> tuple[GenerateSpec, JudgeSpec, EvaluateSpec]:
    """Specs of the evaluation of the policy of a round on held-out prompts, beside initial policy and base.

    inputs: digests of prompts, policy, initial, of rivals' responses (responses:NAME) and, after round 0 of a run
    with held-out pairs, of these (pairs) and of the evaluations whose log-probabilities are read again
    (evaluation:initial, evaluation:previous).
    """
    folder = plan.layout.stage(round_number, "evaluate")
    evaluation = plan.config.evaluation
    models = {name: value for name, value in plan.model_inputs.items() if not name.startswith("annotator:")}
    policy = plan.policy(round_number)
    responses = heldout_spec(plan, inputs, policy=policy, folder=folder / "responses", round_number=round_number)
    compared = rivals(round_number, base)
    others = {name: plan.layout.stage(number, "evaluate") / "responses" for name, number in compared}
    others |= {name: plan.layout.stage(0, "against") / name for name in evaluation.against}
    earlier = {"initial": 0, "previous": base} if round_number and labels_pairs(plan) else {}
    judged = {name: value for name, value in inputs.items() if not name.startswith(("pairs", "evaluation:"))}
    judge = JudgeSpec(
        folder=folder / "judgements",
        round=round_number,
        seed=plan.config.seed,
        inputs=judged | models,
        settings=JudgingSettings(judges=evaluation.judges, rates=evaluation.rates),
        responses={"policy": responses.folder} | others,
        prompts=responses.prompts,
        answers=plan.layout.answers,
    )
    metrics = EvaluateSpec(
        folder=folder,
        round=round_number,
        seed=plan.config.seed,
        inputs=inputs,
        settings=MetricsSettings(
            bootstrap=evaluation.bootstrap,
            divergence_tokens=evaluation.batch_tokens,
            truth=evaluation.truth,
            margin=_margin(plan) if earlier else None,
            dtype=plan.config.training.dtype,
            device=plan.config.training.device,
            trust_remote_code=plan.config.policy.trust_remote_code,
        ),
        responses=responses.folder,
        judgements=judge.folder,
        policy=policy,
        initial=plan.initial,
        prompts=responses.prompts,
        rivals=others,
        pairs=plan.layout.stage(0, "evaluate") / "pairs" if labels_pairs(plan) else None,
        evaluations={name: plan.layout.stage(number, "evaluate") for name, number in earlier.items()},
        harness=folder / "harness" if plan.config.harness.tasks else None,
        mt_bench=folder / "grades" if plan.config.mt_bench.questions else None,
    )
    return responses, judge, metrics


def _margin(plan: Plan) -> MarginSettings:
    objective = plan.config.objective
    assert isinstance(objective.reference, str)  # labels_pairs
    return MarginSettings(scale=objective.margin_scale, reference=objective.reference)


def rivals(round_number: int, base: int) -> list[tuple[str, int]]:
    """Whom a round's policy is compared with, and that policy's round. `previous`: what the round started from."""
    if round_number == 0:
        return []
    return [("initial", 0)] if base == 0 else [("initial", 0), ("previous", base)]
