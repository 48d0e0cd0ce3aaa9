"""DNO (DNO-Prct): DPO against the policy that the round starts from.

    -P ls(beta d) - (1 - P) ls(-beta d)         P = 1; labels=win_rates: P = sigmoid(r_chosen - r_rejected)

Source: arXiv 2404.03715; r is a response's win rate, as in the paper's theory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Dno(PairObjective):
    name: str = "dno"
    reference: Literal["previous"] = "previous"  # with another one it is a different method
    labels: Literal["hard", "win_rates"] = "hard"  # win_rates: soft, as in the paper's theory

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "win_rates", win_rates=self.labels == "win_rates")

    def batch_loss(self, batch: Batch) -> Tensor:
        probability: Tensor | float = 1.0
        if self.labels == "win_rates":
            chosen, rejected = batch.of_pairs(batch.responses["win_rate"])
            probability = (chosen - rejected).sigmoid()
        return dpo(batch.h_chosen, batch.h_rejected, probability, beta=self.beta)
