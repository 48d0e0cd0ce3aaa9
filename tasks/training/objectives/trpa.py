"""TRPA: preferences between levels, by mean log-ratios, within a trust region.

Source: arXiv 2504.04524. With r = h / |y| (nats a token), kappa for pairs whose chosen response is of the first level
(1 for the others), and the divergence from the policy that sampled estimated token by token (k3):

    L = -ls(kappa beta (r_chosen - r_rejected)) + c KL(pi || pi_old),   k3 = exp(-u) - 1 + u,  u = log pi - log pi_old
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

#: exp of more than this is not formed; a token that much rarer than before has a divergence without bound anyway.
LARGEST_EXPONENT = 80.0


def trpa(r_chosen: Tensor, r_rejected: Tensor, first_level: Tensor, *, beta: float, kappa: float) -> Tensor:
    """Preference loss of each pair, [N]. r: log-ratios, nats a token. first_level: bool, nothing beats chosen."""
    factor = torch.where(first_level, kappa, 1.0).to(r_chosen.dtype)
    return -logsigmoid(factor * beta * (r_chosen - r_rejected))


def k3(logprobs: Tensor, previous: Tensor) -> Tensor:
    """Divergence from the previous policy at each sampled token, [T], nats; at least 0."""
    change = logprobs - previous.detach()
    return (-change).clamp(max=LARGEST_EXPONENT).expm1() + change
