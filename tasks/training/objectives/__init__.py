"""Objectives by name: pure functions from log-ratios and labels to a loss per pair, and what each of them needs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.training.settings import ObjectiveSettings

if TYPE_CHECKING:
    from torch import Tensor

#: (h_chosen [N], h_rejected [N], label [N]) -> (loss [N], metrics by name, each [N])
PairLoss = Callable[["Tensor", "Tensor", "Tensor"], "tuple[Tensor, dict[str, Tensor]]"]


@dataclass(frozen=True)
class Objective:
    """An objective with its constants filled in. `label` is the column of preferences.parquet that it fits."""

    name: str
    label: str
    reference: bool  # needs log-probabilities under a reference policy
    loss: PairLoss


def _irepo(settings: ObjectiveSettings) -> Objective:
    from tasks.training.objectives.irepo import irepo

    loss: Any = partial(irepo, beta=settings.beta, scale=settings.scale)
    return Objective(name="irepo", label="target", reference=True, loss=loss)


OBJECTIVES: dict[str, Callable[[ObjectiveSettings], Objective]] = {"irepo": _irepo}


def build_objective(settings: ObjectiveSettings) -> Objective:
    """The objective that `settings` names. Names are checked where settings are read."""
    return OBJECTIVES[settings.name](settings)
