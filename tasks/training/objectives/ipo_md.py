"""IPO-MD: the IPO loss on responses sampled from a mixture of policy and reference.

    (d - (2P - 1) / (2 beta))^2         on responses of pi_ref^m pi^(1-m), token by token

Source: Calandriello et al., arXiv 2403.08635. A run samples them with engine=transformers; the other engines sample
from the policy alone, and are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import Labels, PairObjective
from tasks.training.objectives.ipo import ipo
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class IpoMd(PairObjective):
    name: str = "ipo-md"
    labels: Labels = "soft"  # hard: the preferred reply wins | soft: with its P-hat
    mixture: float = Field(0.5, ge=0, le=1)  # m: share of the reference in the policy that responses are sampled from

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft", mixture=self.mixture)

    def batch_loss(self, batch: Batch) -> Tensor:
        probability = batch.probability if self.labels == "soft" else 1.0
        return ipo(batch.h_chosen, batch.h_rejected, probability, beta=self.beta)
