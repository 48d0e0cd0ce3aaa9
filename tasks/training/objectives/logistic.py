"""The logistic function in losses. Imports torch when called: settings are read without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def log_sigmoid(values: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x))), finite for any finite x; of any shape."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(values)


def soft_logistic(margin: Tensor, probability: Tensor | float) -> Tensor:
    """Cross-entropy of sigmoid(margin) against `probability`, [N]: -P log sigmoid(m) - (1 - P) log sigmoid(-m)."""
    return -probability * log_sigmoid(margin) - (1 - probability) * log_sigmoid(-margin)
