"""XPO: DPO with a bonus for moving away from a sample of the reference.

    -ls(beta d) + alpha log pi(y~)         y~: a sample of the reference

Source: Xie et al., arXiv 2405.21046. In the paper y~ is also one of the pair; here it is one more response to the
prompt. Not bounded from below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Xpo(PairObjective):
    name: str = "xpo"
    alpha: float = Field(5e-6, ge=0)  # of the exploration bonus; 0 is online DPO

    def needs(self) -> Needs:
        return Needs(ties=False, extra="reference")

    def batch_loss(self, batch: Batch) -> Tensor:
        logprob = batch.logprobs[batch.extra_of_pairs()]
        return xpo(batch.h_chosen, batch.h_rejected, logprob, beta=self.beta, alpha=self.alpha)


def xpo(h_chosen: Tensor, h_rejected: Tensor, logprob: Tensor, *, beta: float, alpha: float) -> Tensor:
    """Loss of each pair, [N]. logprob: log pi of the reference's sample for the pair's prompt, nats."""
    return dpo(h_chosen, h_rejected, beta=beta) + alpha * logprob
