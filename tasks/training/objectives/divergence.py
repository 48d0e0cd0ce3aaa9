"""f-DPO: the regulariser is another divergence than the reverse KL.

Source: Wang et al., arXiv 2309.16240. L = -P ls(z) - (1 - P) ls(-z), z = beta (phi(h_chosen) - phi(h_rejected)), with
phi(h) = f'(e^h) up to a constant:

    reverse_kl  h                       which is DPO
    forward_kl  -exp(-h)
    jsd         log sigmoid(h)
    alpha       -exp(-alpha h) / alpha  0 < alpha < 1; towards 0 it is reverse_kl (TRL's coefficient is 1 - alpha)
"""

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.training.objectives.logistic import soft_logistic

Divergence = Literal["reverse_kl", "forward_kl", "jsd", "alpha"]

#: exp of more than this is not formed: it stays finite in float32, and so does its gradient (which is 0 beyond).
LARGEST_EXPONENT = 80.0


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
        return logsigmoid(h)
    rate = 1.0 if divergence == "forward_kl" else alpha
    # expm1: the constant 1 / rate does not matter, and for a small rate it is what keeps the digits.
    return -(-rate * h).clamp(max=LARGEST_EXPONENT).expm1() / rate
