"""MADPO: DPO whose pairs weigh more when their reward margin is small, and less when it is large.

Source: arXiv 2510.05342. With m = s_chosen - s_rejected on the scale of logits (negative where the rewards contradict
the label) and tau, lambda, c_max >= 1 >= c_min:

    c(|m|) = c_min + (c_max - c_min) / (1 + (c_max - 1) / (1 - c_min) exp(lambda (|m| - tau)))      c(tau) = 1
    w(m)   = sigmoid(c m) / sigmoid(m) for m > -tau, else 1
    L      = -w log sigmoid(beta d)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective, Rewarded, Rewards
from tasks.training.objectives.logistic import log_sigmoid
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Madpo(Rewarded, PairObjective):
    name: str = "madpo"
    rewards: Rewards = "target"  # margins must be on the scale of logits
    c_max: float = Field(2.0, ge=1)  # largest weight of a pair
    c_min: float | None = Field(None, gt=0, le=1)  # None = 1 / c_max
    slope: float = Field(1.0, gt=0)  # lambda
    threshold: float = Field(6.906754778648554, gt=0)  # tau = log(.999 / .001): margins below it are amplified

    def needs(self) -> Needs:
        return Needs(ties=False, scores=self.scores_needed(), standardise=self.standardise)

    def batch_loss(self, batch: Batch) -> Tensor:
        return madpo(
            batch.h_chosen,
            batch.h_rejected,
            self.reward(batch),
            beta=self.beta,
            c_max=self.c_max,
            c_min=self.c_min,
            slope=self.slope,
            threshold=self.threshold,
        )


def madpo_weight(margin: Tensor, *, c_max: float, c_min: float, slope: float, threshold: float) -> Tensor:
    """w(m) of each pair, [N], without gradient; all 1 for c_max = 1 or c_min = 1."""
    import torch

    margin = margin.detach()
    if c_max == 1 or c_min == 1:
        return torch.ones_like(margin)
    odds = math.log((c_max - 1) / (1 - c_min))
    factor = c_min + (c_max - c_min) * torch.sigmoid(-odds - slope * (margin.abs() - threshold))
    inside = margin.clamp(min=-threshold)  # beyond it the weight is 1; clamping keeps the logarithms finite
    weight = (log_sigmoid(factor * inside) - log_sigmoid(inside)).exp()
    return torch.where(margin > -threshold, weight, torch.ones_like(weight))


def madpo(
    h_chosen: Tensor,
    h_rejected: Tensor,
    margin: Tensor,
    *,
    beta: float,
    c_max: float,
    c_min: float | None,
    slope: float,
    threshold: float,
) -> Tensor:
    """Loss of each pair, [N]. margin: s_chosen - s_rejected, a logit of any sign."""
    lowest = 1 / c_max if c_min is None else c_min
    weight = madpo_weight(margin, c_max=c_max, c_min=lowest, slope=slope, threshold=threshold)
    return -weight * log_sigmoid(beta * (h_chosen - h_rejected))
