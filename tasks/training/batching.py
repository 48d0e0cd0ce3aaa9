"""From prompt groups to log-probabilities of their responses: `Forward`, packed or plain.

These are all that know how rows are laid out. Packed: `tasks.training.packing`. Plain: one row a response, padded.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from tasks.modeling.logprobs import TokenSequence, summed_logprobs
from tasks.training.attention import packing_options, use_segments
from tasks.training.groups import PromptGroup
from tasks.training.head import token_logprobs
from tasks.training.packing import PackedRow, first_fit, packed_tokens
from tasks.training.settings import OptimizationSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Forward(Protocol):
    """A model's forward over prompt groups."""

    model: "PreTrainedModel"  # or a PeftModel, which forwards like the model it wraps

    def batches(self, groups: Sequence[PromptGroup]) -> list[list[int]]:
        """Indices of groups that share a forward; each group once, none cut."""
        ...

    def tokens_of(self, group: PromptGroup) -> int:
        """Tokens that a group takes in a forward, without padding."""
        ...

    def logprobs(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, Tensor]:
        """log p(response | prompt) of every response, [sum of K], and of its single tokens, [T]; group after group.

        float64, nats, differentiable once.
        """
        ...


def build_forward(model: "PreTrainedModel", settings: OptimizationSettings) -> Forward:
    """The forward that `settings.batching` asks for, of at most `settings.microbatch_tokens` tokens.

    A packed one changes the model's attention implementation.
    """
    if settings.batching == "packed":
        return PackedForward(model, settings.microbatch_tokens)
    return PlainForward(model, settings.microbatch_tokens)


class PlainForward:
    """One row a response, each with its prompt, padded to the longest."""

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
    """Several groups in one row, each prompt and response once (see `tasks.training.packing`).

    Attention goes segment by segment where the architecture lets us choose its attention (then the layout reaches it as
    a keyword argument of the forward), else by a mask. The head sees response positions only, in chunks; where a model
    does more to its logits than its output layer (soft-capping, scaling), the head is the model's own.
    """

    def __init__(self, model: "PreTrainedModel", tokens: int, *, by_mask: bool = False) -> None:
        self.model = model
        self.tokens = tokens
        adapted: Any = model
        inner = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
        self.by_mask = by_mask or not inner._supports_attention_backend
        if not self.by_mask:
            use_segments(inner)
        self._decoder: Any = inner.base_model
        self._config = self._decoder.config
        self._head = output_layer(inner)

    def batches(self, groups: Sequence[PromptGroup]) -> list[list[int]]:
        return first_fit(groups, self.tokens)

    def tokens_of(self, group: PromptGroup) -> int:
        return packed_tokens(group)

    def logprobs(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, Tensor]:
        weight = next(self.model.parameters())
        device = weight.device
        row = PackedRow.of(groups, device)
        options = packing_options(self._config, row, weight.dtype, by_mask=self.by_mask)
        inputs = {"input_ids": row.ids, "position_ids": row.positions, "use_cache": False, **options}
        if self._head is not None:
            hidden = self._decoder(**inputs).last_hidden_state[0]
            single = token_logprobs(hidden[row.predicting], self._head.weight, self._head.bias, row.targets)
        else:
            logits = self.model(**inputs, logits_to_keep=row.predicting).logits[0]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            single = -nn.functional.cross_entropy(logits, row.targets, reduction="none")
        single = single.double()
        return torch.zeros(len(row.lengths), dtype=single.dtype, device=device).index_add(0, row.owner, single), single


def output_layer(model: "PreTrainedModel") -> nn.Linear | None:
    """The output layer, where the model's logits are what it makes of the last hidden states and nothing else.

    Found out by a forward in which the layer answers something else: that must be what the model answers, and what the
    layer is asked must be what the decoder gives.
    """
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear:
        return None
    asked: list[Tensor] = []
    device = layer.weight.device
    answer = torch.linspace(-1e3, 1e3, layer.out_features, device=device, dtype=layer.weight.dtype)

    def replace(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        asked.append(arguments[0])
        return answer.expand_as(output)

    ids = torch.arange(4, device=device)[None] % layer.in_features
    hook = layer.register_forward_hook(replace)
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
    plain = torch.equal(logits, answer.expand_as(logits)) and len(asked) == 1 and torch.equal(asked[0], hidden)
    return layer if plain else None


def padded_batches(groups: Sequence[PromptGroup], tokens: int) -> list[list[int]]:
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


def token_starts(groups: Sequence[PromptGroup]) -> list[int]:
    """Where each response's tokens start among the tokens of `Forward.logprobs`, and where the last ends."""
    return [0, *accumulate(len(response) for group in groups for response in group.responses)]
