"""Sr-DPO and Sr-IPO: the margin must exceed what the policy itself takes the quality difference to be.

    Sr-DPO  -ls(beta d - lambda Delta)
    Sr-IPO  (d - 1 / (2 beta) - lambda Delta / beta)^2
    Delta = q(chosen) - q(rejected),   q(y) = beta [log pi(y | instruction, x) - log pi(y | x)]

Source: arXiv 2405.21040, in its spirit: powers and normalisation of Delta, and the instruction, were not verified;
Delta is taken once a round, from the policy that the round starts from; the shift of Sr-IPO is our reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class SrDpo(PairObjective):
    name: str = "sr-dpo"
    base: Literal["dpo", "ipo"] = "dpo"  # whose loss gets the offset
    weight: float = Field(1.0, ge=0)  # OURS: lambda, times the quality difference
    instruction: str = "Give a helpful, correct and complete answer of high quality."  # OURS: before the prompt, for q

    def needs(self) -> Needs:
        return Needs(ties=False, previous=True, quality_instruction=self.instruction)

    def batch_loss(self, batch: Batch) -> Tensor:
        chosen, rejected = batch.of_pairs(batch.responses["quality"])
        loss = sr_dpo if self.base == "dpo" else sr_ipo
        return loss(batch.h_chosen, batch.h_rejected, chosen - rejected, beta=self.beta, weight=self.weight)


def sr_dpo(h_chosen: Tensor, h_rejected: Tensor, quality: Tensor, *, beta: float, weight: float) -> Tensor:
    """Loss of each pair, [N]. quality: [log pi(y|instruction, x) - log pi(y|x)] of chosen minus rejected, nats."""
    return dpo(h_chosen, h_rejected, beta=beta, offset=weight * beta * quality.detach())


def sr_ipo(h_chosen: Tensor, h_rejected: Tensor, quality: Tensor, *, beta: float, weight: float) -> Tensor:
    """As `sr_dpo`, with the squared loss."""
    return (h_chosen - h_rejected - 1 / (2 * beta) - weight * quality.detach()).square()
