"""Step-APO: the margin must exceed the difference of advantages.

    -ls(beta d - (A_chosen - A_rejected))

Source: CPL, arXiv 2409.08642, in its spirit: there advantages are those of plan steps in a tree; here they are rewards
of whole responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.training.objectives.base import PairObjective, Rewarded, Rewards
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class StepApo(Rewarded, PairObjective):
    name: str = "step-apo"
    rewards: Rewards = "scores"  # advantages

    def needs(self) -> Needs:
        return Needs(ties=False, scores=self.scores_needed(), standardise=self.standardise)

    def batch_loss(self, batch: Batch) -> Tensor:
        return step_apo(batch.h_chosen, batch.h_rejected, self.reward(batch), beta=self.beta)


def step_apo(h_chosen: Tensor, h_rejected: Tensor, advantage: Tensor, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats. advantage: A_chosen - A_rejected, in the unit of rewards."""
    return dpo(h_chosen, h_rejected, beta=beta, offset=advantage.detach())
