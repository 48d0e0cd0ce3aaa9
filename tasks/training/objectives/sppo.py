"""SPPO: move each log-ratio towards the response's win rate.

    1/2 [(h_w - (P_w - 1/2) / beta)^2 + (h_l - (P_l - 1/2) / beta)^2]
    P_i = 1/K sum_j P(y_i > y_j), the response itself among the K (with 1/2)

Source: Wu et al., arXiv 2405.00675. Responses are the previous policy's, which is the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.moving import Reference
from tasks.training.objectives.needs import Needs
from tasks.training.objectives.pointwise import pointwise

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Sppo(PairObjective):
    name: str = "sppo"
    beta: float = Field(1e-3, gt=0)  # 1 / eta
    reference: Reference = "previous"

    def needs(self) -> Needs:
        return Needs(win_rates=True)

    def batch_loss(self, batch: Batch) -> Tensor:
        return sppo(batch.h_chosen, batch.h_rejected, *batch.of_pairs(batch.responses["win_rate"]), beta=self.beta)


def sppo(h_chosen: Tensor, h_rejected: Tensor, win_chosen: Tensor, win_rejected: Tensor, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats. win_*: win rate of the response against its prompt's, 0 .. 1."""
    return pointwise(h_chosen, h_rejected, win_chosen - 0.5, win_rejected - 0.5, beta)
