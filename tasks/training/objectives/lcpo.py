"""LCPO (RE-PO): each label is right with a probability that is estimated together with the policy.

Source: arXiv 2509.24159. With any base loss, l+ for "chosen is better" and l- for "rejected is better", the reliability
eta of the annotator who gave the label, and p = exp(-l+) / (exp(-l+) + exp(-l-)):

    E  w = eta p / (eta p + (1 - eta) (1 - p))       how likely the label is right; without gradient
    M  L = w l+ + (1 - w) l-
       eta <- (1 - a) eta + a mean w                 after each step, kept within .5 and .999

One record is one label of one annotator on one pair; a tie is half a record each way, a soft vote a share of a record.
Records count with the weights of the votes in the preferences. The paper's initial reliability
and momentum were not seen: ours are named in the settings. The temperature on the losses is ours too: with squared
losses p saturates without it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.training.objectives.base import Memory, PairSettings, StepLoss
from tasks.training.objectives.cpo import cpo
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.ipo import ipo
from tasks.training.objectives.needs import Needs
from tasks.training.objectives.simpo import simpo

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tasks.training.objectives.batch import Batch

LOWEST, HIGHEST = 0.5, 0.999  # below one half an annotator would be reversed; 1 could never be left again


class Lcpo(PairSettings):
    name: str = "lcpo"
    base: Literal["dpo", "ipo", "simpo", "cpo"] = "dpo"  # whose loss is weighted; cpo without its NLL, set nll for it
    margin: float = Field(0.5, ge=0)  # base=simpo: gamma / beta
    by_annotator: bool = True  # a reliability an annotator; false: one for the panel's labels
    reliability: float = Field(0.9, ge=0.5, le=0.999)  # OURS: at the start
    momentum: float = Field(0.1, gt=0, le=1)  # OURS: how far a reliability goes towards each step's mean
    temperature: float = Field(1.0, gt=0)  # OURS: divides the base losses in the posterior; raise it for ipo

    def needs(self) -> Needs:
        return Needs(ties=self.by_annotator, votes=self.by_annotator)

    def step_loss(self, batch: Batch, memory: Memory, generator: np.random.Generator) -> StepLoss:
        import torch

        names = batch.annotators if self.by_annotator else ("panel",)
        reliability = {name: memory.get(name, self.reliability) for name in names}
        ahead, behind = (loss[:, None] for loss in self._base_losses(batch))
        votes = batch.pairs["votes"] if self.by_annotator else torch.ones_like(ahead)  # of chosen, [N, A]
        eta = torch.tensor([reliability[name] for name in names], dtype=ahead.dtype, device=ahead.device)
        agree = posterior(ahead, behind, eta, temperature=self.temperature)
        disagree = posterior(behind, ahead, eta, temperature=self.temperature)
        weights = batch.pairs["vote_weights"] if self.by_annotator else torch.ones_like(ahead)
        cast = ~votes.isnan()
        share = votes.nan_to_num()
        losses = share * lcpo(ahead, behind, agree) + (1 - share) * lcpo(behind, ahead, disagree)
        right = torch.where(cast, share * agree + (1 - share) * disagree, torch.nan).nanmean(0).tolist()
        learnt = {
            name: updated(reliability[name], mean, self.momentum) for name, mean in zip(names, right, strict=True)
        }
        weight = weights[cast] / weights[cast].mean()
        return StepLoss(losses[cast] * weight, {f"reliability/{name}": value for name, value in learnt.items()}, learnt)

    def _base_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The base loss of "chosen is better" and of "rejected is better", [N] each."""
        if self.base == "simpo":
            chosen, rejected = batch.of_pairs(batch.logprobs / batch.lengths)
            return (
                simpo(chosen, rejected, beta=self.beta, margin=self.margin),
                simpo(rejected, chosen, beta=self.beta, margin=self.margin),
            )
        base = {"dpo": dpo, "ipo": ipo, "cpo": cpo}[self.base]
        chosen, rejected = batch.of_pairs(batch.logprobs if self.base == "cpo" else batch.h)
        return base(chosen, rejected, beta=self.beta), base(rejected, chosen, beta=self.beta)


def posterior(agree: Tensor, disagree: Tensor, reliability: Tensor | float, *, temperature: float = 1.0) -> Tensor:
    """w of each record, without gradient. agree, disagree: base losses of the label and of its reverse.

    reliability: eta, in [0.5, 1], of the records' shape or one for all; at 1 every label is right.
    """
    import torch

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
