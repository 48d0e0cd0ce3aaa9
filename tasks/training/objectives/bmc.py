"""BMC: DPO on sums in which the tokens that tell chosen and rejected apart weigh more.

Source: arXiv 2408.07471 (the loss; bridging, the editing of rejected responses, is a matter of data).

    lambda_t = 1 + 1[t differs] min(1 / pi(t), delta),   S(y) = sum_t lambda_t log pi(t),   lambda without gradient
    L = -ls(beta [(S_w - S_w_ref) - (S_l - S_l_ref)])

The official code weights the reference's sum by the reference's own probabilities, the paper's text by the policy's.
Tokens differ when they are outside the longest matching blocks of the two responses. Unlike the official code, stop
words count like others.
"""

from difflib import SequenceMatcher
from itertools import chain

import numpy as np
from torch import Tensor
from torch.nn.functional import logsigmoid


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
    return -logsigmoid(beta * (policy - reference))
