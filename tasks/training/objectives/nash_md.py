"""Nash-MD: the policy plays against a mixture of itself and the reference.

    1/(2 beta) (beta h(y) - (P(y > y') - 1/2))^2         y of the policy, y' of pi_ref^m pi^(1-m), token by token

Source: Munos et al., arXiv 2312.00886. Their Nash-MD-PG follows the gradient
-(P(y > y') - 1/2 - beta h(y)) grad log pi(y); this loss has it exactly, and is bounded from below. The game is the
paper's where y is sampled from the current policy, that is in a round's first step; later steps train on the same
responses, as all methods here do. Pairs of two responses of the same origin are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class NashMd(PairObjective):
    name: str = "nash-md"
    mixture: float = Field(0.5, ge=0, le=1)  # m: share of the reference in the opponent's policy (TRL's default)

    def needs(self) -> Needs:
        return Needs(mixture=self.mixture, halves="across")

    def batch_loss(self, batch: Batch) -> Tensor:
        first_won = batch.pairs["second"] == 0  # chosen is the policy's own
        h = batch.h_chosen.where(first_won, batch.h_rejected)
        return nash_md(h, batch.probability.where(first_won, 1 - batch.probability), beta=self.beta)


def nash_md(h: Tensor, probability: Tensor, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. h: log-ratio of the policy's response, nats. probability: that it beats the mixture's."""
    return (beta * h - (probability.detach() - 0.5)).square() / (2 * beta)
