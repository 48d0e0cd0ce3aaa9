"""Which round starts from which policy, and what its reference is."""

from collections.abc import Sequence

from flows.plan import Plan
from flows.stages import Stages
from storage.artifact import Artifact
from tasks.evaluation.record import RoundRecord
from tasks.training.objectives.moving import reference_source


def promoted(rounds: Sequence[RoundRecord]) -> RoundRecord:
    """The record of the policy that the next round starts from: the last one that was not rolled back."""
    return next(record for record in reversed(rounds) if record.decision != "roll back")


def chain_of(rounds: Sequence[RoundRecord]) -> list[int]:
    """The rounds whose policies led to the one that the next round starts from, 0 first."""
    number, numbers = promoted(rounds).round, []
    while number:
        numbers.append(number)
        number = rounds[number].base
    return [0, *reversed(numbers)]


def policy_of(stages: Stages, plan: Plan, round_number: int) -> Artifact:
    """The policy that a round ended with; round 0's is the initial policy."""
    return stages.made(plan, round_number, plan.config.policy_stage) / "policy" if round_number else plan.initial


def trained_in(stages: Stages, plan: Plan, round_number: int) -> Artifact:
    """The policy that a round trained, before any update that follows."""
    return stages.made(plan, round_number, "train") / "policy" if round_number else plan.initial


def previous_policy(stages: Stages, plan: Plan, chain: Sequence[int]) -> Artifact:
    """The policy before the one that a round starts from."""
    return policy_of(stages, plan, chain[-2]) if len(chain) > 1 else plan.before_initial


def reference_of(stages: Stages, plan: Plan, round_number: int, chain: Sequence[int]) -> Artifact:
    """The policy that a round takes log-ratios against, once it is made."""
    kind, number = reference_source(plan.config.objective.reference, round_number, chain)
    if kind == "policy":
        return policy_of(stages, plan, number)
    return stages.made(plan, number, "reference") / "policy"


def moves_reference(plan: Plan, round_number: int, chain: Sequence[int]) -> bool:
    """Whether the round makes its reference in a stage of its own."""
    return reference_source(plan.config.objective.reference, round_number, chain) == ("reference", round_number)


def replayed(plan: Plan, chain: Sequence[int]) -> list[int]:
    """The earlier rounds whose pairs are trained on again."""
    settings = plan.config.mixing
    return [number for number in chain if number][-(settings.rounds or 0) :] if settings.replay else []
