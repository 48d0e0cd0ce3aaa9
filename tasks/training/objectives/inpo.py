"""INPO: towards a regularised Nash policy, with two references.

    (D_pi - tau/eta D_initial - (eta - tau)/eta D_previous - (2P - 1) / (2 eta))^2
    D_m = log m(chosen) - log m(rejected)

Source: arXiv 2407.00617, with hard labels (P = 1). Soft labels are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from tasks.training.objectives.base import BatchObjective, Labels
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Inpo(BatchObjective):
    name: str = "inpo"
    reference: Literal["initial"] = "initial"  # the previous policy is the second one
    eta: float = Field(0.005, gt=0)  # the target is 1 / (2 eta) nats
    tau: float | None = Field(None, ge=0)  # weight of the initial policy; None = eta / 3
    labels: Labels = "hard"  # soft: OURS
    nll: float = Field(0.0, ge=0)  # times the negative log-likelihood a token of chosen, added to the loss

    @model_validator(mode="after")
    def _tau_below_eta(self) -> Inpo:
        if self.tau is not None and self.tau > self.eta:
            raise ValueError("tau is at most eta: the previous policy's weight is (eta - tau) / eta")
        return self

    @property
    def margin_scale(self) -> float:
        return self.eta

    @property
    def nll_weight(self) -> float:
        return self.nll

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft", previous=True)

    def batch_loss(self, batch: Batch) -> Tensor:
        assert batch.previous is not None
        policy, initial, previous = (
            values[batch.chosen] - values[batch.rejected]
            for values in (batch.logprobs, batch.reference, batch.previous)
        )
        probability = batch.probability if self.labels == "soft" else 1.0
        return inpo(policy, initial, previous, probability, eta=self.eta, tau=self.tau)


def inpo(
    policy: Tensor,
    initial: Tensor,
    previous: Tensor,
    probability: Tensor | float = 1.0,
    *,
    eta: float,
    tau: float | None = None,
) -> Tensor:
    """Loss of each pair, [N]. policy, initial, previous: D under each, nats. tau: eta / 3 by default."""
    share = 1 / 3 if tau is None else tau / eta
    return (policy - share * initial - (1 - share) * previous - (2 * probability - 1) / (2 * eta)).square()
