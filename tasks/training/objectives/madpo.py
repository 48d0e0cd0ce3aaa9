"""MADPO: DPO whose pairs weigh more when their reward margin is small, and less when it is large.

Source: arXiv 2510.05342. With m = s_chosen - s_rejected on the scale of logits (negative where the rewards contradict
the label) and tau, lambda, c_max >= 1 >= c_min:

    c(|m|) = c_min + (c_max - c_min) / (1 + (c_max - 1) / (1 - c_min) exp(lambda (|m| - tau)))      c(tau) = 1
    w(m)   = sigmoid(c m) / sigmoid(m) for m > -tau, else 1
    L      = -w log sigmoid(beta d)
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def madpo_weight(margin: Tensor, *, c_max: float, c_min: float, slope: float, threshold: float) -> Tensor:
    """w(m) of each pair, [N], without gradient; all 1 for c_max = 1 or c_min = 1."""
    margin = margin.detach()
    if c_max == 1 or c_min == 1:
        return torch.ones_like(margin)
    odds = math.log((c_max - 1) / (1 - c_min))
    factor = c_min + (c_max - c_min) * torch.sigmoid(-odds - slope * (margin.abs() - threshold))
    inside = margin.clamp(min=-threshold)  # what is beyond weighs 1; clamped, its logarithms stay finite
    weight = (logsigmoid(factor * inside) - logsigmoid(inside)).exp()
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
    return -weight * logsigmoid(beta * (h_chosen - h_rejected))
