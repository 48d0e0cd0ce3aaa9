"""The logistic function, and the result that every estimator gives for a pair."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from storage.arrays import Floats, Ints


class Gaps(Protocol):
    """The result of an estimator: the logit of 'first is preferred to second', and its standard error."""

    def gaps(self, prompt: Ints, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """Logit and standard error for index arrays of one length [n]."""


@dataclass(frozen=True)
class PairLogits:
    """Logits that need not be transitive: logit[p, i, j] that i is preferred to j; NaN where unknown."""

    logit: Floats  # [P, K, K], antisymmetric
    se: Floats  # [P, K, K], symmetric

    def gaps(self, prompt: Ints, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """Logit and standard error for index arrays of one length [n]."""
        return self.logit[prompt, first, second], self.se[prompt, first, second]


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    result: Floats = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    return result


def logit(p: Floats) -> Floats:
    """log(p / (1 - p))."""
    result: Floats = np.log(p) - np.log1p(-p)
    return result
