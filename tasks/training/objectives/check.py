"""Checks that a run provides what its objective needs. Called when the configuration is read."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.training.objectives.base import Objective
from tasks.training.objectives.needs import Needs


@dataclass(frozen=True)
class RunSetup:
    """The settings of a run that decide what it can provide."""

    scoring: Sequence[str]  # annotators of the panel that give scores
    pairs: str  # preferences.pairs
    offline: bool = False  # whether pairs of a preference set are trained on
    replay: bool = False  # whether pairs of earlier rounds are mixed in
    goals: bool = False  # whether pairs are relabelled with goals
    mixes: bool = False  # whether the engine samples from mixtures of two policies
    drafts: str = "none"  # the kind of drafts that responses are
    responses: int = 4  # sampled to each prompt


def check_objective(objective: Objective, setup: RunSetup) -> None:
    """Raise ValueError, with a remedy, for the first need of `objective` that the run cannot meet."""
    name, needs = objective.name, objective.needs()
    _check_mixing(name, needs, setup)
    _check_scores(name, needs, setup)
    if needs.listwise and setup.pairs != "all":
        raise ValueError(
            f"objective: {name} needs all responses of a prompt, and preferences.pairs={setup.pairs} keeps two of "
            f"them; set preferences.pairs=all"
        )
    _check_mixture(name, needs, setup)
    if needs.halves == "within" and setup.drafts != "traces":
        raise ValueError(f"objective: {name} is for responses with and without a reasoning trace; set drafts=traces")
    if needs.goals and not setup.goals:
        raise ValueError(
            f"objective: {name} is for pairs whose prompts name a goal; use recipe=c-rlft, which sets mixing.goals"
        )


def _check_mixture(name: str, needs: Needs, setup: RunSetup) -> None:
    if needs.mixture is None:
        return
    if setup.offline or setup.drafts != "none":
        what = "pairs from a file" if setup.offline else "drafts"
        raise ValueError(
            f"objective: {name} is for responses sampled from a mixture of policy and reference, which {what} are not; "
            f"use an objective on pairs (ipo, irepo), or leave them out"
        )
    if not setup.mixes:
        raise ValueError(
            f"objective: {name} is for responses of a mixture of policy and reference, and this engine samples from "
            f"one policy; set engine=transformers, or objective=online-ipo, which trains on the policy's own responses"
        )
    if needs.halves and setup.responses < 2:
        raise ValueError(
            f"objective: {name} compares the policy's responses with those of a mixture, and sampling.responses="
            f"{setup.responses} has room for one kind; set sampling.responses=4"
        )


def _check_mixing(name: str, needs: Needs, setup: RunSetup) -> None:
    """Refuse objectives that read what pairs from elsewhere do not have."""
    columns = {
        "scores": needs.scores is not None,
        "votes": needs.votes or needs.win_rates,
        "an extra response": needs.extra is not None,
    }
    read = [column for column, needed in columns.items() if needed]
    if read and setup.offline:
        raise ValueError(
            f"mixing.offline, data: objective={name} reads {' and '.join(read)}, which pairs of an "
            f"offline set do not have; use an objective on pairs (irepo, dpo), or leave the set out"
        )
    if needs.extra is not None and setup.replay:
        raise ValueError(
            f"mixing.replay: objective={name} reads an extra response of this round, which replayed "
            f"pairs do not have; use mixing=none, or an objective on pairs (irepo, dpo)"
        )
    if setup.goals and (read or needs.listwise):
        raise ValueError(
            f"mixing.goals: objective={name} reads more than pairs of responses, and relabelled pairs have "
            f"nothing more; use an objective on pairs (dpo, irepo)"
        )


def _check_scores(name: str, needs: Needs, setup: RunSetup) -> None:
    if needs.scores is None:
        return
    if missing := [annotator for annotator in needs.scores if annotator not in setup.scoring]:
        raise ValueError(
            f"objective.score_annotators: {', '.join(missing)} gives no scores on this panel; "
            f"annotators that give scores: {', '.join(setup.scoring) or 'none'}"
        )
    if not setup.scoring:
        raise ValueError(
            f"objective: {name} learns from scores, and no annotator of the panel gives scores; add one that does "
            f"(reward_model, rubric, rule), or use the targets as rewards: objective.rewards=target"
        )
