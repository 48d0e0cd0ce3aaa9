"""From prompt groups to forwards: which groups share one, and the log-probability of each of their responses.

These functions are all that knows how rows are laid out. One row a response, padded, is the plain layout.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from tasks.modeling.logprobs import TokenSequence, summed_logprobs
from tasks.training.groups import PromptGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def microbatches(groups: Sequence[PromptGroup], tokens: int) -> list[list[int]]:
    """Indices of `groups`, longest first, in batches of at most `tokens` padded tokens (at least one group each).

    A group is never cut, so that every pair finds both its responses in one forward.
    """
    order = sorted(range(len(groups)), key=lambda i: (-groups[i].longest, i))
    result: list[list[int]] = []
    rows = 0
    for index in order:
        count = len(groups[index].responses)
        if result and groups[result[-1][0]].longest * (rows + count) <= tokens:
            result[-1].append(index)
            rows += count
        else:
            result.append([index])
            rows = count
    return result


def response_logprobs(model: "PreTrainedModel", groups: Sequence[PromptGroup]) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(response | prompt) of every response, [sum of K], and of its single tokens, [T]; group after group.

    float64, nats, differentiable.
    """
    return summed_logprobs(
        model, [TokenSequence(group.prompt_ids, response) for group in groups for response in group.responses]
    )


def token_starts(groups: Sequence[PromptGroup]) -> list[int]:
    """Where each response's tokens start among the tokens of `response_logprobs`, and where the last ends."""
    return [0, *accumulate(len(response) for group in groups for response in group.responses)]
