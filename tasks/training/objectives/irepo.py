"""iREPO: regress the implicit-reward difference of two responses on the logit of their empirical preference.

Source: iREPO, arXiv 2405.15230. With h = log pi(y|x) - log pi_ref(y|x), d = h_chosen - h_rejected, and target the logit
of the (smoothed) empirical preference of chosen over rejected:

    reward:    L = (beta * d - target)^2
    logratio:  L = (d - target / beta)^2        the same minimiser; the gradient is 1/beta^2 times as large

Without the logit, P - 1/2 stands in its place. The paper compares with and without; that this is what it means by
"without" is our reading.
"""

from typing import Literal

from torch import Tensor

Scale = Literal["reward", "logratio"]


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
