"""REBEL: regress the log-ratio difference of two responses on the difference of their rewards.

    (d - eta (s_chosen - s_rejected))^2, or the same divided by eta^2         d = h_chosen - h_rejected

Source: Gao et al., arXiv 2404.16767. iREPO is REBEL with the logit of the preference for the reward and beta = 1 / eta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import BatchObjective, Rewarded, Rewards
from tasks.training.objectives.irepo import Scale, squared_margin
from tasks.training.objectives.moving import Reference
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Rebel(Rewarded, BatchObjective):
    name: str = "rebel"
    reference: Reference = "previous"
    eta: float = Field(1.0, gt=0)  # log-ratio that one unit of reward is worth
    scale: Scale = "logratio"  # logratio: the code's; reward: the paper's, divided by eta
    rewards: Rewards = "scores"  # target: then it is iREPO with beta = 1/eta
    nll: float = Field(0.0, ge=0)  # times the negative log-likelihood a token of chosen, added to the loss

    @property
    def margin_scale(self) -> float:
        return 1 / self.eta

    @property
    def nll_weight(self) -> float:
        return self.nll

    def needs(self) -> Needs:
        return Needs(scores=self.scores_needed(), standardise=self.standardise)

    def batch_loss(self, batch: Batch) -> Tensor:
        return rebel(batch.h_chosen, batch.h_rejected, self.reward(batch), eta=self.eta, scale=self.scale)


def rebel(h_chosen: Tensor, h_rejected: Tensor, difference: Tensor, *, eta: float, scale: Scale) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats. difference: s_chosen - s_rejected, of any sign, without gradient."""
    return squared_margin(h_chosen - h_rejected, difference.detach(), beta=1 / eta, scale=scale)
