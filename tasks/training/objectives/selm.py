"""SELM: DPO with a bonus for moving away from what the reference would say greedily.

    -ls(beta d) + alpha beta h_r         h_r: log-ratio of the reference's greedy response

Source: Zhang et al., arXiv 2405.19332. Not bounded from below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.moving import Reference
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Selm(PairObjective):
    name: str = "selm"
    beta: float = Field(0.01, gt=0)
    alpha: float = Field(1e-3, ge=0)  # of the optimism; large ones collapse
    reference: Reference = "previous"

    def needs(self) -> Needs:
        return Needs(ties=False, extra="greedy")

    def batch_loss(self, batch: Batch) -> Tensor:
        h_greedy = batch.h[batch.extra_of_pairs()]
        return selm(batch.h_chosen, batch.h_rejected, h_greedy, beta=self.beta, alpha=self.alpha)


def selm(h_chosen: Tensor, h_rejected: Tensor, h_greedy: Tensor, *, beta: float, alpha: float) -> Tensor:
    """Loss of each pair, [N]. h_greedy: log-ratio of the reference's greedy response to the pair's prompt, nats."""
    return dpo(h_chosen, h_rejected, beta=beta) + alpha * beta * h_greedy
