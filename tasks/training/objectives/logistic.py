"""DPO and what differs from it by its labels, its lengths or the correction for wrong labels.

With d = h_chosen - h_rejected, ls = log sigmoid and P the probability that chosen is better:

    DPO    -P ls(beta d) - (1 - P) ls(-beta d)                         P = 1: Rafailov et al., arXiv 2305.18290
    cDPO   the same with P' = (1 - eps) P + eps (1 - P)                eps: share of labels taken to be wrong
    rDPO   [-(1 - eps) ls(beta d) + eps ls(-beta d)] / (1 - 2 eps)     Chowdhury et al., arXiv 2403.00409
    LN-DPO log-ratios divided by the tokens of their responses         as in FuseChat-3.0, arXiv 2503.04222
    R-DPO  -ls(beta d + alpha (|chosen| - |rejected|))                 Park et al., arXiv 2403.19159
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def soft_logistic(margin: Tensor, probability: Tensor | float) -> Tensor:
    """Cross-entropy of sigmoid(margin) against `probability`, [N]: -P log sigmoid(m) - (1 - P) log sigmoid(-m)."""
    return -probability * logsigmoid(margin) - (1 - probability) * logsigmoid(-margin)


def dpo(
    h_chosen: Tensor,
    h_rejected: Tensor,
    probability: Tensor | float = 1.0,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    offset: Tensor | float = 0.0,
) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats. probability: that chosen is better, [N] or one for all.

    `offset`, in the unit of rewards, is what the margin beta * d must exceed; it gets no gradient.
    """
    smoothed = (1 - label_smoothing) * probability + label_smoothing * (1 - probability)
    return soft_logistic(beta * (h_chosen - h_rejected) - offset, smoothed)


def rdpo(h_chosen: Tensor, h_rejected: Tensor, *, beta: float, flip_rate: float) -> Tensor:
    """Loss of each pair, [N]: under random flips its mean is the DPO loss of the right labels.

    Not bounded from below: for large d its slope stays at -flip_rate * beta / (1 - 2 flip_rate).
    """
    margin = beta * (h_chosen - h_rejected)
    kept, flipped = logsigmoid(margin), logsigmoid(-margin)
    return (-(1 - flip_rate) * kept + flip_rate * flipped) / (1 - 2 * flip_rate)


def length_offset(chosen_tokens: Tensor, rejected_tokens: Tensor, alpha: float) -> Tensor:
    """R-DPO as the offset of `dpo`, [N]: a longer chosen response need not be preferred by as much."""
    return -alpha * (chosen_tokens - rejected_tokens)
