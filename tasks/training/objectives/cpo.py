"""CPO: DPO with a uniform reference, and the negative log-likelihood of chosen.

    -ls(beta (log pi(chosen) - log pi(rejected))) - nll log pi(chosen) / |chosen|

Source: Xu et al., arXiv 2401.08417. The paper sums the NLL over a response's tokens; the authors' code (as TRL's) takes
its mean over all tokens of a batch. Here, as for every method, it is the mean over pairs of a response's mean. Soft
labels are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import Labels, PairObjective
from tasks.training.objectives.logistic import soft_logistic
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Cpo(PairObjective):
    name: str = "cpo"
    labels: Labels = "hard"  # soft: OURS
    nll: float = Field(1.0, ge=0)

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft")

    def batch_loss(self, batch: Batch) -> Tensor:
        probability = batch.probability if self.labels == "soft" else 1.0
        return cpo(*batch.of_pairs(batch.logprobs), probability, beta=self.beta)


def cpo(chosen: Tensor, rejected: Tensor, probability: Tensor | float = 1.0, *, beta: float) -> Tensor:
    """Loss of each pair without the NLL, [N]. chosen, rejected: log-probabilities of whole responses, nats.

    probability: that chosen is better, [N] or one for all.
    """
    return soft_logistic(beta * (chosen - rejected), probability)
