"""The specs of a round's stages that make drafts in place of sampled responses."""

from flows.plan import Plan
from flows.specs import first_half, generate_spec
from storage.artifact import Artifact
from tasks.generation.draft_halves import Traces
from tasks.generation.drafts import ASKED, PIECES, AskSpec, AssembleSpec, Drafts, Sapo
from tasks.generation.settings import GenerateSpec


def ask_spec(
    plan: Plan, number: int, drafts: Drafts, *, policy: Artifact, prompts: Artifact, own: Artifact | None
) -> AskSpec:
    return AskSpec(
        folder=plan.folder(number, "ask"),
        round=number,
        seed=plan.config.seed,
        settings=drafts,
        prompts=prompts,
        policy=policy,
        own=own,
        trust_remote_code=plan.config.policy.trust_remote_code,
    )


def own_spec(plan: Plan, number: int, *, policy: Artifact, prompts: Artifact) -> GenerateSpec:
    """The policy's own responses to each prompt: the first half of the round's."""
    sampling = plan.config.sampling.drawing(first_half(plan))
    return generate_spec(plan, number, plan.folder(number, "own"), policy=policy, prompts=prompts, sampling=sampling)


def drafts_spec(plan: Plan, number: int, drafts: Drafts, *, policy: Artifact, asked: Artifact) -> GenerateSpec:
    """One response to each thing asked; half of the round's for each kind of trace.

    For SAPO a response has at most as many tokens as the stretch.
    """
    sampling, begins = plan.config.sampling, isinstance(drafts, Sapo | Traces)
    longest = min(drafts.tokens, sampling.max_tokens) if isinstance(drafts, Sapo) else None
    return generate_spec(
        plan,
        number,
        plan.folder(number, "drafts"),
        policy=policy,
        prompts=asked / ASKED,
        sampling=sampling.drawing(first_half(plan) if isinstance(drafts, Traces) else 1, max_tokens=longest),
        prefixes=asked / PIECES if begins else None,
    )


def assemble_spec(
    plan: Plan,
    number: int,
    drafts: Drafts,
    *,
    policy: Artifact,
    prompts: Artifact,
    own: Artifact | None,
    asked: Artifact,
    sampled: Artifact,
) -> AssembleSpec:
    return AssembleSpec(
        folder=plan.folder(number, "generate"),
        round=number,
        seed=plan.config.seed,
        settings=drafts,
        prompts=prompts,
        own=own,
        asked=asked,
        drafts=sampled,
        policy=policy,
        trust_remote_code=plan.config.policy.trust_remote_code,
    )
