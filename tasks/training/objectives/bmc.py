"""BMC: DPO on sums in which the tokens in which chosen and rejected differ weigh more.

Source: arXiv 2408.07471 (the loss; bridging, the editing of rejected responses, is a matter of data).

    lambda_t = 1 + 1[t differs] min(1 / pi(t), delta),   S(y) = sum_t lambda_t log pi(t),   lambda without gradient
    L = -ls(beta [(S_w - S_w_ref) - (S_l - S_l_ref)])

The official code weights the reference's sum by the reference's own probabilities, the paper's text by the policy's.
Tokens differ when they are outside the longest matching blocks of the two responses. Unlike the official code, stop
words count like others.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.logistic import log_sigmoid
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch, TokenColumns


class Bmc(PairObjective):
    name: str = "bmc"
    beta: float = Field(0.01, gt=0)
    ceiling: float = Field(1.5, ge=0)  # delta: largest weight that a token's surprise adds
    confidence: Literal["own", "policy"] = "own"  # own: each model's sum by its own weights; policy: by the policy's

    def needs(self) -> Needs:
        return Needs(ties=False, tokens=True, alignment=True)

    def batch_loss(self, batch: Batch) -> Tensor:
        tokens = batch.tokens
        assert tokens is not None
        policy_weights = extra_weight(tokens.policy, self.ceiling)
        own = extra_weight(tokens.reference, self.ceiling) if self.confidence == "own" else policy_weights
        policy = _reweighted_margin(batch, tokens, batch.logprobs, tokens.policy, policy_weights)
        return bmc(policy, _reweighted_margin(batch, tokens, batch.reference, tokens.reference, own), beta=self.beta)


def _reweighted_margin(batch: Batch, columns: TokenColumns, sums: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """S_w - S_l of each pair, [N]."""
    sides = []
    for response, (position, pair) in ((batch.chosen, columns.chosen), (batch.rejected, columns.rejected)):
        sides.append(reweighted(sums[response], tokens[position], weights[position], pair))
    return sides[0] - sides[1]


def differing(first: np.ndarray, second: np.ndarray) -> tuple[list[int], list[int]]:
    """Positions of the tokens in each response that are in no matching block of the two."""
    blocks = [
        block
        for block in SequenceMatcher(None, first.tolist(), second.tolist(), autojunk=False).get_opcodes()
        if block[0] != "equal"
    ]
    return (
        list(chain.from_iterable(range(low, high) for _, low, high, _, _ in blocks)),
        list(chain.from_iterable(range(low, high) for _, _, _, low, high in blocks)),
    )


def extra_weight(logprobs: Tensor, ceiling: float) -> Tensor:
    """min(1 / pi, ceiling) of tokens, without gradient. logprobs: nats."""
    return (-logprobs.detach()).exp().clamp(max=ceiling)


def reweighted(total: Tensor, logprobs: Tensor, weight: Tensor, pair: Tensor) -> Tensor:
    """S of each pair's response, [N]: its plain sum [N] plus weight * logprob of each differing token of it.

    logprobs, weight, pair: [C], one a differing token, and the pair that it belongs to.
    """
    return total.index_add(0, pair, weight * logprobs)


def bmc(policy: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. policy, reference: S_w - S_l under either, nats."""
    return -log_sigmoid(beta * (policy - reference))
