"""What a run will do: the specs of its first round and of evaluations, with inputs not yet known."""

from flows.drafts import ask, assemble, sample
from flows.evaluation import against_spec, evaluation_specs, pairs_spec
from flows.plan import Plan
from flows.training import extra_spec, mix_spec, train_spec, update_spec
from storage.stage import Spec
from tasks.generation.drafts import NoDrafts


def dry_run(plan: Plan) -> list[Spec]:
    """The round's stages in the order in which they run, then those of evaluations; benchmarks apart."""
    known = ("prompts", "policy", "initial", "reference", "responses", "preferences")
    specs: list[Spec | None] = [
        plan.prompts({"prompts": "?"}),
        plan.select(1, {"prompts": "?"}),
        *_responses(plan, {"prompts": "?", "policy": "?"}),
        plan.label(1, 0, 0, {"prompts": "?", "responses": "?"}),
        mix_spec(plan, 1, [0], {"preferences": "?"}),
        extra_spec(plan, 1, [0], {"prompts": "?", "policy": "?"}),
        train_spec(plan, 1, [0], {"policy": "?", "reference": "?", "preferences": "?"}),
        update_spec(plan, 1, [0], {"trained": "?"}),
        pairs_spec(plan, {"prompts": "?", "responses": "?", "initial": "?"}),
        *(against_spec(plan, name, {"prompts": "?", "policy": "?"}) for name in plan.named),
        *evaluation_specs(plan, 1, 0, dict.fromkeys(known, "?")),
    ]
    return [spec for spec in specs if spec is not None]


def _responses(plan: Plan, inputs: dict[str, str]) -> list[Spec]:
    """The stage that samples responses, or the three that make them in pairs."""
    if isinstance(plan.config.drafts, NoDrafts):
        return [plan.generate(1, 0, inputs)]
    made = assemble(plan, 1, 0, inputs | {"asked": "?", "drafts": "?"})
    return [ask(plan, 1, 0, inputs), sample(plan, 1, 0, inputs), made]
