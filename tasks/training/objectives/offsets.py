"""Logistic losses whose margin must exceed an offset: by how much chosen is better.

    ODPO      -ls(beta d - alpha f(delta))          Amini et al., arXiv 2402.10571; delta = s_chosen - s_rejected > 0
    Step-APO  -ls(beta d - (A_chosen - A_rejected)) CPL, arXiv 2409.08642; advantages of plan steps
    Sr-DPO    -ls(beta d - lambda Delta)            arXiv 2405.21040; Delta = q(chosen) - q(rejected),
    Sr-IPO    (d - 1 / (2 beta) - lambda Delta / beta)^2

with q(y) = beta [log pi(y | instruction, x) - log pi(y | x)], what the policy itself takes the quality to be.

Step-APO and Sr-DPO are in the spirit of their papers. Step-APO: advantages here are rewards of whole responses, there
is no tree of steps. Sr-DPO: powers and normalisation of Delta, and the instruction, were not verified; Delta is taken
from the policy that the round starts from, once a round; the shift of Sr-IPO is our reading.
"""

from typing import Literal

from torch import Tensor

from tasks.training.objectives.logistic import dpo

SMALLEST = 1e-3  # of a reward difference: the logarithm of a smaller one would turn into a large negative offset


def odpo_offset(difference: Tensor, *, alpha: float, offset: Literal["log", "log1p", "identity"]) -> Tensor:
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
    offset: Literal["log", "log1p", "identity"] = "log",
) -> Tensor:
    """Loss of each pair, [N]. difference: s_chosen - s_rejected, in the scores' unit."""
    return dpo(h_chosen, h_rejected, beta=beta, offset=odpo_offset(difference, alpha=alpha, offset=offset))


def step_apo(h_chosen: Tensor, h_rejected: Tensor, advantage: Tensor, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. advantage: A_chosen - A_rejected, in the unit of rewards."""
    return dpo(h_chosen, h_rejected, beta=beta, offset=advantage.detach())


def sr_dpo(h_chosen: Tensor, h_rejected: Tensor, quality: Tensor, *, beta: float, weight: float) -> Tensor:
    """Loss of each pair, [N]. quality: [log pi(y|instruction, x) - log pi(y|x)] of chosen minus rejected, nats."""
    return dpo(h_chosen, h_rejected, beta=beta, offset=weight * beta * quality.detach())


def sr_ipo(h_chosen: Tensor, h_rejected: Tensor, quality: Tensor, *, beta: float, weight: float) -> Tensor:
    """As `sr_dpo`, with the squared loss."""
    return (h_chosen - h_rejected - 1 / (2 * beta) - weight * quality.detach()).square()
