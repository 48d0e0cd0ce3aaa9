"""iREPO: regress the implicit-reward difference of two responses on the logit of their empirical preference.

Source: iREPO, arXiv 2405.15230. With h = log pi(y|x) - log pi_ref(y|x), d = h_chosen - h_rejected, and target the logit
of the (smoothed) empirical preference of chosen over rejected:

    reward:    L = (beta * d - target)^2
    logratio:  L = (d - target / beta)^2        the same minimiser; the gradient is 1/beta^2 times as large
"""

from typing import Literal

from torch import Tensor

Scale = Literal["reward", "logratio"]


def irepo(
    h_chosen: Tensor, h_rejected: Tensor, target: Tensor, *, beta: float, scale: Scale
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and metrics of each pair; all tensors are floating point [N].

    h_chosen, h_rejected: log-ratios of whole responses to the reference, nats. target: logit of the preference, of any
    sign; swapping a pair's responses while negating its target changes nothing. The target gets no gradient.
    Metrics (detached): margin = beta * d, in the target's unit; accuracy = whether d and target agree in sign, where a
    zero of either counts one half.
    """
    difference = h_chosen - h_rejected
    wanted = target.detach()
    residual = beta * difference - wanted if scale == "reward" else difference - wanted / beta
    agreement = (difference.detach() * wanted).sign()
    return residual.square(), {"margin": beta * difference.detach(), "accuracy": (agreement + 1) / 2}
