"""f-DPO: the regulariser is another divergence than the reverse KL.

Source: Wang et al., arXiv 2309.16240. L = -P ls(z) - (1 - P) ls(-z), z = beta (phi(h_chosen) - phi(h_rejected)), with
phi(h) = f'(e^h) up to a constant:

    reverse_kl  h                       which is DPO
    forward_kl  -exp(-h)
    jsd         log sigmoid(h)
    alpha       -exp(-alpha h) / alpha  0 < alpha < 1; towards 0 it is reverse_kl (TRL's coefficient is 1 - alpha)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.training.objectives.base import Labels, PairObjective
from tasks.training.objectives.logistic import log_sigmoid, soft_logistic
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch

Divergence = Literal["reverse_kl", "forward_kl", "jsd", "alpha"]

#: Larger exponents are clamped: loss and gradient (0 beyond it) stay finite in float32.
LARGEST_EXPONENT = 80.0


class FDpo(PairObjective):
    name: str = "f-dpo"
    divergence: Divergence = "jsd"  # from the reference, in place of the reverse KL
    alpha: float = Field(0.5, gt=0, lt=1)  # of divergence=alpha; the paper tries .3, .5, .7
    labels: Labels = "hard"  # hard: the preferred reply wins | soft: with its P-hat

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft")

    def batch_loss(self, batch: Batch) -> Tensor:
        return f_dpo(
            batch.h_chosen,
            batch.h_rejected,
            batch.probability if self.labels == "soft" else 1.0,
            beta=self.beta,
            divergence=self.divergence,
            alpha=self.alpha,
        )


def f_dpo(
    h_chosen: Tensor,
    h_rejected: Tensor,
    probability: Tensor | float = 1.0,
    *,
    beta: float,
    divergence: Divergence,
    alpha: float = 0.5,
) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats."""
    margin = beta * (_phi(h_chosen, divergence, alpha) - _phi(h_rejected, divergence, alpha))
    return soft_logistic(margin, probability)


def _phi(h: Tensor, divergence: Divergence, alpha: float) -> Tensor:
    if divergence == "reverse_kl":
        return h
    if divergence == "jsd":
        return log_sigmoid(h)
    rate = 1.0 if divergence == "forward_kl" else alpha
    # expm1 only adds the constant 1 / rate, and keeps the digits for a small rate.
    return -(-rate * h).clamp(max=LARGEST_EXPONENT).expm1() / rate
