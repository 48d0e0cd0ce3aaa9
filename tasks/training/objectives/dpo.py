"""DPO, with the options that make cDPO, LN-DPO and R-DPO of it.

With d = h_chosen - h_rejected, ls = log sigmoid and P the probability that chosen is better:

    DPO    -P ls(beta d) - (1 - P) ls(-beta d)                         P = 1: Rafailov et al., arXiv 2305.18290
    cDPO   the same with P' = (1 - eps) P + eps (1 - P)                eps: share of labels taken to be wrong
    LN-DPO log-ratios divided by the tokens of their responses         as in FuseChat-3.0, arXiv 2503.04222
    R-DPO  -ls(beta d + alpha (|chosen| - |rejected|))                 Park et al., arXiv 2403.19159
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import Labels, Length, PairObjective
from tasks.training.objectives.logistic import soft_logistic
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Dpo(PairObjective):
    name: str = "dpo"
    labels: Labels = "hard"  # hard: the preferred reply wins | soft: with its P-hat
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)  # cDPO: share of labels taken to be wrong
    length: Length = "sum"  # mean: log-ratios a token (LN-DPO; beta is then about 2)
    length_penalty: float = Field(0.0, ge=0)  # R-DPO: times the tokens that chosen has more than rejected

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft")

    def batch_loss(self, batch: Batch) -> Tensor:
        return dpo(
            *batch.log_ratios(self.length),
            batch.probability if self.labels == "soft" else 1.0,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            offset=length_offset(*batch.of_pairs(batch.lengths), self.length_penalty),
        )


def dpo(
    h_chosen: Tensor,
    h_rejected: Tensor,
    probability: Tensor | float = 1.0,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    offset: Tensor | float = 0.0,
) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats. probability: that chosen is better, [N] or one for all.

    offset: what the margin beta * d must exceed, in the unit of rewards, without gradient.
    """
    smoothed = (1 - label_smoothing) * probability + label_smoothing * (1 - probability)
    return soft_logistic(beta * (h_chosen - h_rejected) - offset, smoothed)


def length_offset(chosen_tokens: Tensor, rejected_tokens: Tensor, alpha: float) -> Tensor:
    """R-DPO as the offset of `dpo`, [N]: the margin of a longer chosen response may be smaller."""
    return -alpha * (chosen_tokens - rejected_tokens)
