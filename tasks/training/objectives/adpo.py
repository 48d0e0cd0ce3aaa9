"""ADPO: all responses of a prompt at once, anchored at the reference.

Source: arXiv 2510.18913. L = -sum_i q_i log softmax_i(h_i / tau), q the shares of the prompt's responses, which sum
to 1. With two responses and tau = 1 / beta it is DPO with soft labels. The divergence is L minus the entropy of q.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import BatchObjective, Length, Rewarded, Rewards
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Adpo(Rewarded, BatchObjective):
    name: str = "adpo"
    temperature: float = Field(0.8, gt=0)  # tau, of log-ratios
    length: Length = "sum"  # mean: log-ratios a token; sums of long responses saturate
    rewards: Rewards = "target"  # target: shares are those of the strengths behind the targets
    reward_temperature: float = Field(0.5, gt=0)  # beta_r, of rewards=scores

    @property
    def margin_scale(self) -> float:
        return 1 / self.temperature

    def needs(self) -> Needs:
        return Needs(
            scores=self.scores_needed(),
            standardise=self.standardise,
            listwise=True,
            share_temperature=self.reward_temperature,
        )

    def batch_loss(self, batch: Batch) -> Tensor:
        h = batch.mean_h() if self.length == "mean" else batch.h
        return adpo(h, batch.responses["share"], batch.owner, temperature=self.temperature)


def adpo(h: Tensor, shares: Tensor, owner: Tensor, *, temperature: float) -> Tensor:
    """Loss of each prompt, [G], whose prompts are owner = 0 .. G - 1.

    h: log-ratios of all responses, [R], nats (of whole responses, or a token). shares: q, [R], NaN for a response that
    takes no part. owner: prompt of each response, [R], in blocks.
    """
    import torch

    groups = int(owner.max()) + 1
    counts = torch.bincount(owner, minlength=groups)
    place = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
    scores = h.new_full((groups, int(counts.max())), -torch.inf)
    present = ~shares.isnan()
    scores = scores.index_put((owner[present], place[present]), h[present] / temperature)
    losses = scores.logsumexp(1)[owner[present]] - h[present] / temperature
    return torch.zeros_like(scores[:, 0]).index_add(0, owner[present], shares[present].detach() * losses)


def score_shares(scores: Tensor, *, temperature: float) -> Tensor:
    """q of one prompt's scores [K], K > 1: softmax of the standardised scores (ddof 1) over `temperature`."""
    return ((scores - scores.mean()) / (scores.std() + 1e-8) / temperature).softmax(0)
