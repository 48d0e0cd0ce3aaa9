"""A squared hinge: pairs that win by a margin have no loss, and the others' grows with the square of what is missing.

    L = max(0, margin - beta d)^2         d = h_chosen - h_rejected, h the log-ratio to the reference

Source: the L2 support vector machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class SquaredHinge(PairObjective):
    name: str = "squared-hinge"
    margin: float = Field(1.0, gt=0)  # of implicit rewards, from which a pair has no loss

    def needs(self) -> Needs:
        return Needs(ties=False)

    def batch_loss(self, batch: Batch) -> Tensor:
        return squared_hinge(batch.h_chosen, batch.h_rejected, beta=self.beta, margin=self.margin)


def squared_hinge(h_chosen: Tensor, h_rejected: Tensor, *, beta: float, margin: float) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats."""
    return (margin - beta * (h_chosen - h_rejected)).relu().square()
