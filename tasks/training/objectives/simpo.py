"""SimPO: DPO without a reference, on log-probabilities a token, with a margin.

    -ls(beta (log pi(chosen) / |chosen| - log pi(rejected) / |rejected|) - gamma)         gamma = margin * beta

Source: Meng et al., arXiv 2405.14734, with the official code's defaults. The authors tune beta (2 to 10) and the margin
(0.1 to 1.6) for each model. Soft labels are ours.
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


class SimPo(PairObjective):
    name: str = "simpo"
    beta: float = Field(2.0, gt=0)
    labels: Labels = "hard"  # soft: OURS
    margin: float = Field(0.5, ge=0)  # gamma / beta, nats a token

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft")

    def batch_loss(self, batch: Batch) -> Tensor:
        probability = batch.probability if self.labels == "soft" else 1.0
        chosen, rejected = batch.of_pairs(batch.logprobs / batch.lengths)
        return simpo(chosen, rejected, probability, beta=self.beta, margin=self.margin)


def simpo(
    chosen: Tensor, rejected: Tensor, probability: Tensor | float = 1.0, *, beta: float, margin: float = 0.5
) -> Tensor:
    """Loss of each pair, [N]. chosen, rejected: mean log-probabilities of a token, nats. margin: gamma / beta.

    probability: that chosen is better, [N] or one for all; each side has to win by the margin.
    """
    difference = chosen - rejected
    ahead = soft_logistic(beta * (difference - margin), 1.0)
    behind = soft_logistic(beta * (-difference - margin), 1.0)
    return probability * ahead + (1 - probability) * behind
