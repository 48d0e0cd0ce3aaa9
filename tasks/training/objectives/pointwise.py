"""The squared loss of single log-ratios that SPPO and GPO share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def pointwise(h_chosen: Tensor, h_rejected: Tensor, chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """1/2 [(h_chosen - chosen / beta)^2 + (h_rejected - rejected / beta)^2] of each pair, [N].

    h: log-ratios, nats. chosen, rejected: the implicit rewards to reach, without gradient.
    """
    first = (h_chosen - chosen.detach() / beta).square()
    second = (h_rejected - rejected.detach() / beta).square()
    return (first + second) / 2
