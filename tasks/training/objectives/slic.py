"""SLiC: a hinge.

    max(0, delta - beta d)

Source: Zhao et al., arXiv 2305.10425, with log-probabilities in place of log-ratios (and an NLL term); with log-ratios
it is the baseline of the IPO-MD paper, arXiv 2403.08635.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Slic(PairObjective):
    name: str = "slic"
    margin: float = Field(1.0, gt=0)  # delta
    log_ratios: bool = True  # false: of log-probabilities, the classic form (with beta=1 and nll)

    def needs(self) -> Needs:
        return Needs(ties=False)

    def batch_loss(self, batch: Batch) -> Tensor:
        values = batch.h if self.log_ratios else batch.logprobs
        return slic(*batch.of_pairs(values), beta=self.beta, margin=self.margin)


def slic(chosen: Tensor, rejected: Tensor, *, beta: float, margin: float = 1.0) -> Tensor:
    """Loss of each pair, [N]. chosen, rejected: log-ratios, or log-probabilities, nats. margin: delta."""
    return (margin - beta * (chosen - rejected)).relu()
