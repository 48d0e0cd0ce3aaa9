"""rDPO: unbiased when labels are flipped at a known rate.

    [-(1 - eps) ls(beta d) + eps ls(-beta d)] / (1 - 2 eps)         d = h_chosen - h_rejected, ls = log sigmoid

Source: Chowdhury et al., arXiv 2403.00409; eps is the share of labels that are flipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.logistic import log_sigmoid
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Rdpo(PairObjective):
    name: str = "rdpo"
    flip_rate: float = Field(0.1, ge=0, lt=0.5)  # share of labels taken to be flipped

    def needs(self) -> Needs:
        return Needs(ties=False)

    def batch_loss(self, batch: Batch) -> Tensor:
        return rdpo(batch.h_chosen, batch.h_rejected, beta=self.beta, flip_rate=self.flip_rate)


def rdpo(h_chosen: Tensor, h_rejected: Tensor, *, beta: float, flip_rate: float) -> Tensor:
    """Loss of each pair, [N]: under random flips its mean is the DPO loss of the right labels. h: log-ratios, nats.

    Not bounded from below: for large d its slope stays at -flip_rate * beta / (1 - 2 flip_rate).
    """
    margin = beta * (h_chosen - h_rejected)
    kept, flipped = log_sigmoid(margin), log_sigmoid(-margin)
    return (-(1 - flip_rate) * kept + flip_rate * flipped) / (1 - 2 * flip_rate)
