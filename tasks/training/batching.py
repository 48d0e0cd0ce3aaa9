"""Forwards that turn prompt groups into log-probabilities of their responses: packed or plain rows.

Only these classes know how rows are laid out. Packed: see `tasks.training.packing`. Plain: one padded row per response.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from tasks.modeling.head import base_model, head_logprobs, output_layer
from tasks.modeling.logprobs import TokenSequence, summed_logprobs
from tasks.modeling.positions import check_length
from tasks.training.attention import packing_options, use_segments
from tasks.training.groups import PromptGroup
from tasks.training.packing import PackedRow, first_fit, packed_tokens
from tasks.training.settings import OptimizationSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Forward(Protocol):
    """A model's forward over prompt groups."""

    model: "PreTrainedModel"  # or a PeftModel, which is called like the model it wraps

    def batches(self, groups: Sequence[PromptGroup]) -> list[list[int]]:
        """Indices of the groups in each forward. Each group occurs once and is never split."""
        ...

    def tokens_of(self, group: PromptGroup) -> int:
        """Tokens that a group takes in a forward, without padding."""
        ...

    def logprobs(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, Tensor]:
        """log p(response | prompt) of every response, [sum of K], and of every response token, [T], in group order.

        float64, in nats, differentiable once.
        """
        ...


def build_forward(model: "PreTrainedModel", settings: OptimizationSettings) -> Forward:
    """The forward for `settings.batching`, with at most `settings.microbatch_tokens` tokens per call.

    A packed forward changes the model's attention implementation.
    """
    if settings.batching == "packed":
        return PackedForward(model, settings.microbatch_tokens)
    return PlainForward(model, settings.microbatch_tokens)


def set_attention(model: "PreTrainedModel", settings: OptimizationSettings) -> None:
    """Change the model's attention to that of `build_forward`, which does it too. Sharded models need it before."""
    inner = base_model(model)
    if settings.batching == "packed" and inner._supports_attention_backend:
        use_segments(inner)


class PlainForward:
    """One row per response, each with its prompt, padded to the longest row."""

    def __init__(self, model: "PreTrainedModel", tokens: int) -> None:
        self.model = model
        self.tokens = tokens

    def batches(self, groups: Sequence[PromptGroup]) -> list[list[int]]:
        return padded_batches(groups, self.tokens)

    def tokens_of(self, group: PromptGroup) -> int:
        return group.tokens

    def logprobs(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, Tensor]:
        rows = [TokenSequence(group.prompt_ids, response) for group in groups for response in group.responses]
        return summed_logprobs(self.model, rows)


class PackedForward:
    """Several groups in one row, with each prompt and response computed once (see `tasks.training.packing`).

    If the architecture supports custom attention, attention runs segment by segment, and the layout reaches it as a
    keyword argument of the forward. Otherwise a mask is used. Logits are computed for response positions only, in
    chunks. Models that also soft-cap or scale their logits use their own head.
    """

    def __init__(self, model: "PreTrainedModel", tokens: int, *, by_mask: bool = False) -> None:
        self.model = model
        self.tokens = tokens
        inner = base_model(model)
        self.by_mask = by_mask or not inner._supports_attention_backend
        if not self.by_mask:
            use_segments(inner)
        self._decoder: Any = inner.base_model
        self._config: Any = self._decoder.config
        self._head = output_layer(model)

    def batches(self, groups: Sequence[PromptGroup]) -> list[list[int]]:
        return first_fit(groups, self.tokens)

    def tokens_of(self, group: PromptGroup) -> int:
        return packed_tokens(group)

    def logprobs(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, Tensor]:
        check_length(self._config, max(group.longest for group in groups))
        weight = next(self.model.parameters())
        device = weight.device
        row = PackedRow.of(groups, device)
        options = packing_options(self._config, row, weight.dtype, by_mask=self.by_mask)
        inputs = {"input_ids": row.ids, "position_ids": row.positions, "use_cache": False, **options}
        if self._head is not None:
            hidden = self._decoder(**inputs).last_hidden_state[0]
            single = head_logprobs(hidden[row.predicting], self._head.weight, self._head.bias, row.targets)
        else:
            logits = self.model(**inputs, logits_to_keep=row.predicting).logits[0]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            single = -nn.functional.cross_entropy(logits, row.targets, reduction="none")
        single = single.double()
        return torch.zeros(len(row.lengths), dtype=single.dtype, device=device).index_add(0, row.owner, single), single


def padded_batches(groups: Sequence[PromptGroup], tokens: int) -> list[list[int]]:
    """Indices of `groups`, longest first, in batches of at most `tokens` padded tokens (at least one group each).

    A group is never split, so both responses of a pair are in one forward.
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


def token_starts(groups: Sequence[PromptGroup]) -> list[int]:
    """Start of each response's tokens among the tokens of `Forward.logprobs`, and the end of the last response."""
    return [0, *accumulate(len(response) for group in groups for response in group.responses)]
