"""iREPO: regress the implicit-reward difference of two responses on the logit of their empirical preference.

Source: iREPO, arXiv 2405.15230. With h = log pi(y|x) - log pi_ref(y|x), d = h_chosen - h_rejected, and target the logit
of the (smoothed) empirical preference of chosen over rejected:

    reward:    L = (beta * d - target)^2
    logratio:  L = (d - target / beta)^2        the same minimiser; the gradient is 1/beta^2 times as large

With logit=false the target is P - 1/2. The paper compares with and without the logit; this reading of "without" is
ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.moving import Reference

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch

Scale = Literal["reward", "logratio"]


class Irepo(PairObjective):
    name: str = "irepo"
    scale: Scale = "reward"  # logratio divides the residual by beta: gradients grow by 1/beta^2
    reference: Reference = "previous"  # previous sharpens: after T rounds beta acts as beta/T
    logit: bool = True  # false: the paper's ablation as we read it, P - 1/2 in place of the logit

    def batch_loss(self, batch: Batch) -> Tensor:
        return irepo(batch.h_chosen, batch.h_rejected, batch.labels, beta=self.beta, scale=self.scale, logit=self.logit)


def irepo(
    h_chosen: Tensor, h_rejected: Tensor, target: Tensor, *, beta: float, scale: Scale = "reward", logit: bool = True
) -> Tensor:
    """Loss of each pair; all tensors are floating point [N].

    h_chosen, h_rejected: log-ratios of whole responses to the reference, nats. target: logit of the preference, of any
    sign; swapping a pair's responses while negating its target changes nothing. The target gets no gradient.
    """
    wanted = target.detach() if logit else target.detach().sigmoid() - 0.5
    return squared_margin(h_chosen - h_rejected, wanted, beta=beta, scale=scale)


def squared_margin(difference: Tensor, wanted: Tensor, *, beta: float, scale: Scale) -> Tensor:
    """(beta * difference - wanted)^2, or the same divided by beta^2; [N]. `wanted` is in the unit of rewards."""
    residual = beta * difference - wanted if scale == "reward" else difference - wanted / beta
    return residual.square()
