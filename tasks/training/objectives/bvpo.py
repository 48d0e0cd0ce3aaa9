"""BVPO: DPO on responses with a reasoning trace, mixed with DPO on responses with an empty one.

    alpha mean_trace[-ls(beta d)] + (1 - alpha) mean_empty[-ls(beta d)]

Source: arXiv 2510.05095. The sampled trace makes the gradient of the first term noisy; without a trace there is less
noise and a bias. With g the gradient of the marginal loss, the weight of least mean squared error is
alpha = (E|g_e - g|^2 - E<g_t - g, g_e - g>) / E|g_t - g_e|^2; g is not known, so alpha is a setting.

`drafts=traces` makes the responses: the first half of a prompt's with the policy's own trace, the second with an empty
one. Pairs of one of each are left out. The means are over the pairs of a step; a step with pairs of one kind has that
term alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import Memory, PairSettings, StepLoss
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Bvpo(PairSettings):
    name: str = "bvpo"
    alpha: float = Field(0.5, ge=0, le=1)  # OURS: weight of the responses with a trace

    def needs(self) -> Needs:
        return Needs(ties=False, halves="within")

    def step_loss(self, batch: Batch, memory: Memory, generator: np.random.Generator) -> StepLoss:
        losses = dpo(batch.h_chosen, batch.h_rejected, beta=self.beta)
        values = bvpo(losses, batch.pairs["second"], alpha=self.alpha)
        return StepLoss(values, {"pairs_without_trace": float(batch.pairs["second"].sum())})


def bvpo(losses: Tensor, empty: Tensor, *, alpha: float) -> Tensor:
    """Terms [N] whose mean is the mixture of the two means. losses: of pairs, [N]. empty: 1 without a trace, else 0."""
    pairs, without = len(losses), empty.sum()
    traced = alpha * pairs / (pairs - without).clamp(min=1)
    return losses * traced.where(empty == 0, (1 - alpha) * pairs / without.clamp(min=1))
