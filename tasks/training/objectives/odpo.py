"""ODPO: the margin must exceed an offset that grows with the reward difference.

    -ls(beta d - alpha f(delta))         delta = s_chosen - s_rejected > 0; f = log

Source: Amini et al., arXiv 2402.10571. f = log1p and the identity are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.training.objectives.base import PairObjective, Rewarded, Rewards
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch

Shape = Literal["log", "log1p", "identity"]
SMALLEST = 1e-3  # of a reward difference: the logarithm of a smaller one would turn into a large negative offset


class Odpo(Rewarded, PairObjective):
    name: str = "odpo"
    rewards: Rewards = "target"  # target: the pair's target is the difference | scores: of score_annotators
    alpha: float = Field(1.0, ge=0)  # times the offset of the margin
    offset: Shape = "log"  # of the reward difference (at least 1e-3)

    def needs(self) -> Needs:
        return Needs(ties=False, scores=self.scores_needed(), standardise=self.standardise)

    def batch_loss(self, batch: Batch) -> Tensor:
        reward = self.reward(batch)
        return odpo(batch.h_chosen, batch.h_rejected, reward, beta=self.beta, alpha=self.alpha, offset=self.offset)


def odpo_offset(difference: Tensor, *, alpha: float, offset: Shape) -> Tensor:
    """Offset of each pair, [N], from s_chosen - s_rejected; one below 1e-3 (or negative) counts as 1e-3."""
    clamped = difference.detach().clamp(min=SMALLEST)
    shaped = {"log": clamped.log, "log1p": clamped.log1p, "identity": clamped.clone}[offset]()
    return alpha * shaped


def odpo(
    h_chosen: Tensor,
    h_rejected: Tensor,
    difference: Tensor,
    *,
    beta: float,
    alpha: float = 1.0,
    offset: Shape = "log",
) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats. difference: s_chosen - s_rejected, in the scores' unit."""
    return dpo(h_chosen, h_rejected, beta=beta, offset=odpo_offset(difference, alpha=alpha, offset=offset))
