"""Rounds whose responses are made in pairs: their three stages, in place of the one that samples."""

from pathlib import Path

from flows.plan import Plan
from storage.layout import RunLayout
from tasks.generate import generate
from tasks.generation.drafts import ASKED, PIECES, AskSpec, AssembleSpec, NoDrafts, Sapo, run_ask, run_assemble
from tasks.generation.prompts import ROUND
from tasks.generation.settings import GenerateSpec


def generated(plan: Plan, number: int, base: int, inputs: dict[str, str]) -> str:
    """Sample or make the round's responses; returns the digest of its stage `generate`. `inputs` as `Plan.generate`."""
    if isinstance(plan.config.drafts, NoDrafts):
        return str(generate(plan.generate(number, base, inputs))["content"])
    asked = run_ask(ask(plan, number, base, inputs)).content
    drafts = generate.with_options(task_run_name="generate drafts")(
        sample(plan, number, base, {"prompts": asked, "policy": inputs["policy"]})
    )
    return run_assemble(assemble(plan, number, base, inputs | {"asked": asked, "drafts": drafts["content"]})).content


def ask(plan: Plan, number: int, base: int, inputs: dict[str, str]) -> AskSpec:
    assert not isinstance(plan.config.drafts, NoDrafts)
    return AskSpec(
        folder=plan.layout.stage(number, "ask"),
        round=number,
        seed=plan.config.seed,
        inputs=inputs,
        settings=plan.config.drafts,
        prompts=_prompts(plan.layout, number),
        policy=plan.policy(base),
    )


def sample(plan: Plan, number: int, base: int, inputs: dict[str, str]) -> GenerateSpec:
    """One response to each thing asked; for SAPO of at most as many tokens as the stretch has."""
    spec, drafts = plan.generate(number, base, inputs), plan.config.drafts
    sampling = spec.settings.sampling.model_copy(update={"responses": 1})
    if isinstance(drafts, Sapo):
        sampling = sampling.model_copy(update={"max_tokens": min(drafts.tokens, sampling.max_tokens)})
    asked = plan.layout.stage(number, "ask")
    return spec.model_copy(
        update={
            "folder": plan.layout.stage(number, "drafts"),
            "settings": spec.settings.model_copy(update={"sampling": sampling}),
            "prompts": asked / ASKED,
            "prefixes": asked / PIECES if isinstance(drafts, Sapo) else None,
        }
    )


def assemble(plan: Plan, number: int, base: int, inputs: dict[str, str]) -> AssembleSpec:
    assert not isinstance(plan.config.drafts, NoDrafts)
    return AssembleSpec(
        folder=plan.layout.stage(number, "generate"),
        round=number,
        seed=plan.config.seed,
        inputs=inputs,
        settings=plan.config.drafts,
        prompts=_prompts(plan.layout, number),
        asked=plan.layout.stage(number, "ask"),
        drafts=plan.layout.stage(number, "drafts"),
        policy=plan.policy(base),
    )


def _prompts(layout: RunLayout, number: int) -> Path:
    return layout.stage(number, "prompts") / ROUND
