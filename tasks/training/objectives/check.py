"""Whether a run can give an objective what it needs: checked when the configuration is read."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.training.objectives.base import Objective
from tasks.training.objectives.needs import Needs


@dataclass(frozen=True)
class RunSetup:
    """What of a run decides which needs can be met."""

    scoring: Sequence[str]  # annotators of the panel that give scores
    pairs: str  # preferences.pairs
    offline: bool = False  # pairs of an offline set are mixed in
    replay: bool = False  # pairs of earlier rounds are
    goals: bool = False  # pairs are relabelled with goals


def check_objective(objective: Objective, setup: RunSetup) -> None:
    """Raises ValueError, with the remedy, for the first need of `objective` that a run so set up cannot meet."""
    name, needs = objective.name, objective.needs()
    _check_mixing(name, needs, setup)
    _check_scores(name, needs, setup)
    if needs.listwise and setup.pairs != "all":
        raise ValueError(
            f"objective: {name} takes all responses of a prompt at once, and preferences.pairs="
            f"{setup.pairs} leaves two of them; set preferences.pairs=all"
        )
    if needs.mixture is not None:
        raise ValueError(
            f"objective: {name} is for responses of a mixture of policy and reference, and the engines sample from "
            f"the policy alone; objective=online-ipo is the same loss for these"
        )


def _check_mixing(name: str, needs: Needs, setup: RunSetup) -> None:
    """Mixed-in pairs lack what was made for this round's own."""
    columns = {
        "scores": needs.scores is not None,
        "votes": needs.votes or needs.win_rates,
        "an extra response": needs.extra is not None,
    }
    read = [column for column, needed in columns.items() if needed]
    if read and setup.offline:
        raise ValueError(
            f"mixing.offline: objective={name} reads {' and '.join(read)}, which pairs of an "
            f"offline set do not have; use mixing=none, or an objective on pairs (irepo, dpo)"
        )
    if needs.extra is not None and setup.replay:
        raise ValueError(
            f"mixing.replay: objective={name} reads an extra response of this round, which replayed "
            f"pairs do not have; use mixing=none, or an objective on pairs (irepo, dpo)"
        )
    if setup.goals and (read or needs.listwise):
        raise ValueError(
            f"mixing.goals: objective={name} reads more of a prompt's responses than their pairs, "
            f"which relabelled pairs do not have; use an objective on pairs (dpo, irepo)"
        )


def _check_scores(name: str, needs: Needs, setup: RunSetup) -> None:
    if needs.scores is None:
        return
    if missing := [annotator for annotator in needs.scores if annotator not in setup.scoring]:
        raise ValueError(
            f"objective.score_annotators: {', '.join(missing)} gives no scores on this panel; "
            f"those that do: {', '.join(setup.scoring) or 'none'}"
        )
    if not setup.scoring:
        raise ValueError(
            f"objective: {name} learns from scores, and no annotator of the panel gives any; add one that does "
            f"(reward_model, rubric, rule), or take the targets for rewards: objective.rewards=target"
        )
