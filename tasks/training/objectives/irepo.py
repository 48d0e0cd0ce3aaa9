"""iREPO: regress the implicit-reward difference of two responses on the logit of their empirical preference.

Source: iREPO, arXiv 2405.15230. With h = log pi(y|x) - log pi_ref(y|x), d = h_chosen - h_rejected, and target the logit
of the (smoothed) empirical preference of chosen over rejected:

    reward:    L = (beta * d - target)^2
    logratio:  L = (d - target / beta)^2        the same minimiser; the gradient is 1/beta^2 times as large

With weights=precision each pair's loss is multiplied by 1 / (se^2 + 1), se the standard error of its target.
With logit=false the target is P - 1/2. The paper compares with and without the logit; this reading of "without" is
ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.moving import Reference
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch

Scale = Literal["reward", "logratio"]
Weights = Literal["equal", "precision"]


class Irepo(PairObjective):
    name: str = "irepo"
    scale: Scale = "reward"  # logratio divides the residual by beta: gradients grow by 1/beta^2
    reference: Reference = "previous"  # previous sharpens: after T rounds beta acts as beta/T
    logit: bool = True  # false: the paper's ablation as we read it, P - 1/2 in place of the logit
    weights: Weights = "equal"  # OURS, precision: pairs with a sure target count more

    def needs(self) -> Needs:
        return Needs(errors=self.weights == "precision")

    def batch_loss(self, batch: Batch) -> Tensor:
        losses = irepo(
            batch.h_chosen, batch.h_rejected, batch.labels, beta=self.beta, scale=self.scale, logit=self.logit
        )
        return losses * precision(batch.pairs["se"]) if self.weights == "precision" else losses


def irepo(
    h_chosen: Tensor, h_rejected: Tensor, target: Tensor, *, beta: float, scale: Scale = "reward", logit: bool = True
) -> Tensor:
    """Loss of each pair; all tensors are floating point [N].

    h_chosen, h_rejected: log-ratios of whole responses to the reference, nats. target: logit of the preference, of any
    sign; swapping a pair's responses while negating its target changes nothing. The target gets no gradient.
    """
    wanted = target.detach() if logit else target.detach().sigmoid() - 0.5
    return squared_margin(h_chosen - h_rejected, wanted, beta=beta, scale=scale)


def precision(se: Tensor) -> Tensor:
    """Weight of each pair, [N]: 1 / (se^2 + 1), for standard errors of targets, in logits.

    1 logit^2 stands for what the squared loss leaves over even with a target that is certain; without it a few sure
    pairs would outweigh all others.
    """
    return 1 / (se.square() + 1)


def squared_margin(difference: Tensor, wanted: Tensor, *, beta: float, scale: Scale) -> Tensor:
    """(beta * difference - wanted)^2, or the same divided by beta^2; [N]. `wanted` is in the unit of rewards."""
    residual = beta * difference - wanted if scale == "reward" else difference - wanted / beta
    return residual.square()
