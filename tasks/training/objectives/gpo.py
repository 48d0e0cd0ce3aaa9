"""GPO: move each log-ratio towards the response's mean preference score.

    1/2 [(h_w - s_w / beta)^2 + (h_l - s_l / beta)^2]
    s_i = 1/K sum_j s(y_i > y_j), s the preference model's score (a logit)

Source: Zhang et al., arXiv 2410.02197. Responses are the previous policy's, which is the reference. The scores here are
Haldane-Anscombe logits of the votes on each pair, not those of a general preference model; they keep cycles, as such a
model does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.moving import Reference
from tasks.training.objectives.needs import Needs
from tasks.training.objectives.pointwise import pointwise

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Gpo(PairObjective):
    name: str = "gpo"
    beta: float = Field(1e-3, gt=0)
    reference: Reference = "previous"

    def needs(self) -> Needs:
        return Needs(win_rates=True)

    def batch_loss(self, batch: Batch) -> Tensor:
        return gpo(batch.h_chosen, batch.h_rejected, *batch.of_pairs(batch.responses["mean_logit"]), beta=self.beta)


def gpo(h_chosen: Tensor, h_rejected: Tensor, mean_chosen: Tensor, mean_rejected: Tensor, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats. mean_*: the response's mean score against its prompt's, a logit."""
    return pointwise(h_chosen, h_rejected, mean_chosen, mean_rejected, beta)
