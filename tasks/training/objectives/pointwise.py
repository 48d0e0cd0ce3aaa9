"""Squared losses of single log-ratios against how a response does on average: SPPO and GPO.

    SPPO  1/2 [(h_w - (P_w - 1/2) / beta)^2 + (h_l - (P_l - 1/2) / beta)^2]      Wu et al., arXiv 2405.00675
          P_i = 1/K sum_j P(y_i > y_j), the response itself among the K (with 1/2)
    GPO   1/2 [(h_w - s_w / beta)^2 + (h_l - s_l / beta)^2]                      Zhang et al., arXiv 2410.02197
          s_i = 1/K sum_j s(y_i > y_j), s the preference model's score (a logit)

Both are for responses of the previous policy, which is the reference. In GPO the scores here are Haldane-Anscombe
logits of the votes on each pair, not those of a general preference model: they keep cycles, as such a model does.
"""

from torch import Tensor


def sppo(h_chosen: Tensor, h_rejected: Tensor, win_chosen: Tensor, win_rejected: Tensor, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. win_*: win rate of the response against its prompt's, 0 .. 1."""
    return _pointwise(h_chosen, h_rejected, win_chosen - 0.5, win_rejected - 0.5, beta)


def gpo(h_chosen: Tensor, h_rejected: Tensor, mean_chosen: Tensor, mean_rejected: Tensor, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. mean_*: the response's mean score against its prompt's, a logit."""
    return _pointwise(h_chosen, h_rejected, mean_chosen, mean_rejected, beta)


def _pointwise(h_chosen: Tensor, h_rejected: Tensor, chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    first = (h_chosen - chosen.detach() / beta).square()
    second = (h_rejected - rejected.detach() / beta).square()
    return (first + second) / 2
