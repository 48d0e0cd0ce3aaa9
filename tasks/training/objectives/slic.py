"""SLiC: a hinge. L = max(0, delta - beta d).

Source: Zhao et al., arXiv 2305.10425, with log-probabilities in place of log-ratios (and an NLL term); with log-ratios
it is the baseline of the IPO-MD paper, arXiv 2403.08635.
"""

from torch import Tensor


def slic(chosen: Tensor, rejected: Tensor, *, beta: float, margin: float = 1.0) -> Tensor:
    """Loss of each pair, [N]. chosen, rejected: log-ratios, or log-probabilities, nats. margin: delta."""
    return (margin - beta * (chosen - rejected)).relu()
