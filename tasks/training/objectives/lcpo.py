"""LCPO (RE-PO): each label is right with a probability that is estimated together with the policy.

Source: arXiv 2509.24159. With any base loss, l+ for "chosen is better" and l- for "rejected is better", the reliability
eta of whoever gave the label, and p = exp(-l+) / (exp(-l+) + exp(-l-)):

    E  w = eta p / (eta p + (1 - eta) (1 - p))       how likely the label is right; without gradient
    M  L = w l+ + (1 - w) l-
       eta <- (1 - a) eta + a mean w                 after each step, kept within .5 and .999

One record is one label of one annotator on one pair; a tie is half a record each way. The paper's initial reliability
and momentum were not seen: ours are named in the settings. The temperature on the losses is ours too: with squared
losses p saturates without it.
"""

import math

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.5, 0.999  # below one half an annotator would be reversed; 1 could never be left again


def posterior(agree: Tensor, disagree: Tensor, reliability: Tensor | float, *, temperature: float = 1.0) -> Tensor:
    """w of each record, without gradient. agree, disagree: base losses of the label and of its reverse.

    reliability: eta, in [0.5, 1], of the records' shape or one for all; at 1 every label is right.
    """
    eta = torch.as_tensor(reliability, dtype=agree.dtype, device=agree.device)
    odds = torch.logit(eta) + (disagree - agree).detach() / temperature
    return torch.where(eta == 1, torch.ones_like(odds), odds.sigmoid())


def lcpo(agree: Tensor, disagree: Tensor, weight: Tensor) -> Tensor:
    """Loss of each record: w l+ + (1 - w) l-. weight: the posterior of `posterior`."""
    return weight * agree + (1 - weight) * disagree


def updated(reliability: float, mean_posterior: float, momentum: float) -> float:
    """The reliability after a step in whose records the mean posterior was `mean_posterior`; unchanged without any."""
    if math.isnan(mean_posterior):
        return reliability
    moved = (1 - momentum) * reliability + momentum * mean_posterior
    return min(max(moved, LOWEST), HIGHEST)
