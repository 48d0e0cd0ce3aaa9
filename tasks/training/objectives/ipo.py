"""IPO: a squared loss with a bounded target.

    (d - (2P - 1) / (2 beta))^2         d = h_chosen - h_rejected; P = 1 for hard labels

Source: Azar et al., arXiv 2310.12036. With soft labels on the policy's own responses it is online IPO (Calandriello et
al., arXiv 2403.08635).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.training.objectives.base import Labels, Length, PairObjective
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Ipo(PairObjective):
    name: str = "ipo"
    labels: Labels = "hard"  # hard: the preferred reply wins | soft: with its P-hat
    length: Length = "sum"  # mean: log-ratios a token, which the authors used

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft")

    def batch_loss(self, batch: Batch) -> Tensor:
        probability = batch.probability if self.labels == "soft" else 1.0
        return ipo(*batch.log_ratios(self.length), probability, beta=self.beta)


def ipo(h_chosen: Tensor, h_rejected: Tensor, probability: Tensor | float = 1.0, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats of whole responses, or a token. probability: P, [N] or for all."""
    return (h_chosen - h_rejected - (2 * probability - 1) / (2 * beta)).square()
