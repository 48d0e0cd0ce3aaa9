"""What a run will do: the specs of its first round and of its evaluation, with inputs not yet known."""

from flows.drafts import ask, assemble, sample
from flows.evaluation import evaluation_specs, pairs_spec
from flows.plan import Plan
from flows.training import extra_spec, train_spec
from storage.stage import Spec
from tasks.generation.drafts import NoDrafts


def dry_run(plan: Plan) -> list[Spec]:
    """In the order in which the stages run; benchmarks of an evaluation apart."""
    extra = extra_spec(plan, 1, [0], {"prompts": "?", "policy": "?"})
    pairs = pairs_spec(plan, {"prompts": "?", "responses": "?", "initial": "?"})
    known = ("prompts", "policy", "initial", "reference", "responses", "preferences")
    return [
        plan.prompts({"prompts": "?"}),
        plan.select(1, {"prompts": "?"}),
        *_responses(plan, {"prompts": "?", "policy": "?"}),
        plan.label(1, 0, 0, {"prompts": "?", "responses": "?"}),
        *([extra] if extra else []),
        train_spec(plan, 1, [0], {"policy": "?", "reference": "?", "preferences": "?"}),
        *([pairs] if pairs else []),
        *evaluation_specs(plan, 1, 0, dict.fromkeys(known, "?")),
    ]


def _responses(plan: Plan, inputs: dict[str, str]) -> list[Spec]:
    """The stage that samples responses, or the three that make them in pairs."""
    if isinstance(plan.config.drafts, NoDrafts):
        return [plan.generate(1, 0, inputs)]
    made = assemble(plan, 1, 0, inputs | {"asked": "?", "drafts": "?"})
    return [ask(plan, 1, 0, inputs), sample(plan, 1, 0, inputs), made]
