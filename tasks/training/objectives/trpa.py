"""TRPA: preferences between levels, by mean log-ratios, within a trust region.

Source: arXiv 2504.04524. With r = h / |y| (nats a token), kappa for pairs whose chosen response is of the first level
(1 for the others), and the divergence from the policy that sampled estimated token by token (k3):

    L = -ls(kappa beta (r_chosen - r_rejected)) + c KL(pi || pi_old),   k3 = exp(-u) - 1 + u,  u = log pi - log pi_old
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.logistic import log_sigmoid
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch

#: Larger exponents are clamped; the divergence of a token that much rarer than before is beyond any use.
LARGEST_EXPONENT = 80.0


class Trpa(PairObjective):
    name: str = "trpa"
    kappa: float = Field(2.5, gt=0)  # factor of pairs whose chosen response no other of the prompt beats
    kl: float = Field(0.001, ge=0)  # weight of the divergence from the policy that sampled

    def needs(self) -> Needs:
        return Needs(ties=False, previous=True, tokens=True, levels=True)

    def batch_loss(self, batch: Batch) -> Tensor:
        import torch

        tokens = batch.tokens
        assert tokens is not None
        assert tokens.previous is not None
        first = batch.pairs["first_level"].bool()
        preference = trpa(*batch.log_ratios("mean"), first, beta=self.beta, kappa=self.kappa)
        by_token = k3(tokens.policy, tokens.previous) / batch.lengths[tokens.owner]
        divergence = torch.zeros_like(batch.logprobs).index_add(0, tokens.owner, by_token)
        return preference + self.kl * (divergence[batch.chosen] + divergence[batch.rejected]) / 2


def trpa(r_chosen: Tensor, r_rejected: Tensor, first_level: Tensor, *, beta: float, kappa: float) -> Tensor:
    """Preference loss of each pair, [N]. r: log-ratios, nats a token. first_level: bool, nothing beats chosen."""
    import torch

    factor = torch.where(first_level, kappa, 1.0).to(r_chosen.dtype)
    return -log_sigmoid(factor * beta * (r_chosen - r_rejected))


def k3(logprobs: Tensor, previous: Tensor) -> Tensor:
    """Divergence from the previous policy at each sampled token, [T], nats; at least 0."""
    change = logprobs - previous.detach()
    return (-change).clamp(max=LARGEST_EXPONENT).expm1() + change
