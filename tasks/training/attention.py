"""Attention over packed rows, as an implementation of transformers' AttentionInterface.

Each response attends to its prompt and to itself, segment by segment, so no score is computed only to be masked. On a
GPU in half precision, one call of variable-length flash attention (torch.nn.attention.varlen) covers all segments of a
layer; that path has not run on a GPU yet. `use_segments` selects this implementation. A forward without a packed row
uses transformers' own sdpa.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tasks.training.packing import PackedRow, additive, causal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "irepo_segments"


def use_segments(model: "PreTrainedModel") -> None:
    """Make the model attend with `packed_attention`, unless it does so already."""
    if model.config._attn_implementation == NAME:
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # for forwards without a packed row
    model.set_attn_implementation(NAME)


def packing_options(config: Any, row: PackedRow, dtype: torch.dtype, *, by_mask: bool) -> dict[str, Any]:
    """Keyword arguments for a decoder's forward over `row`: the row for `packed_attention`, or a mask.

    The mask replaces the one that transformers would build, including its sliding window. It is bool, or additive in
    `dtype` for eager attention. A model with layers of several types gets one mask per type. Raises
    NotImplementedError for layer types other than full and sliding attention.
    """
    if not by_mask:
        # transformers passes a mask of four dimensions on and builds none. `packed_attention` ignores this one.
        return {"packed_row": row, "attention_mask": torch.zeros((1, 1, 0, 0), device=row.ids.device)}
    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or ())
    if unknown := types - {"full_attention", "sliding_attention"}:
        raise NotImplementedError(f"packed rows have no mask for layers of type {', '.join(sorted(unknown))}")

    def mask(window: int | None) -> Tensor:
        visible = row.whole_mask(window)
        if config._attn_implementation != "eager":
            return visible
        return additive(visible, dtype)

    if types:
        windows = {"full_attention": None, "sliding_attention": window}
        return {"attention_mask": {name: mask(windows[name]) for name in windows}}
    return {"attention_mask": mask(window)}


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_row: PackedRow | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention over queries [1, H, T, D]; keys and values may have fewer heads. Returns [1, T, H, D].

    Under autocast, rotary embeddings leave queries and keys in float32 while values are in half precision. Over a
    packed row they are cast to the values' dtype, as autocast does for sdpa. Supports scaling, sliding windows,
    soft-capping and grouped queries. Raises NotImplementedError for dropout, attention sinks and position biases.
    """
    if dropout or s_aux is not None or position_bias is not None:
        raise NotImplementedError("packed rows do not support dropout, attention sinks or position biases")
    if packed_row is None:
        if softcap is not None:  # transformers' sdpa silently ignores it
            visible = causal(query.shape[2], query.device) if attention_mask is None else attention_mask
            capped = _soft_capped(query, key, value, additive(visible, query.dtype), scaling, softcap)
            return capped.transpose(1, 2), None
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **others
        )[0]
        return output, None
    query, key = query.to(value.dtype), key.to(value.dtype)
    if softcap is None and _has_flash_kernel(query):
        return _variable_length(query, key, value, packed_row, scaling, sliding_window), None
    return _by_segment(query, key, value, packed_row, scaling, sliding_window, softcap), None


def _has_flash_kernel(query: Tensor) -> bool:
    """Whether flash attention takes these queries: half precision, a GPU from Ampere on, a head size it supports."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    size = query.shape[-1]
    return size % 8 == 0 and size <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row: PackedRow,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    # The gradient of split is one concatenation. Each slice's gradient would be a tensor as long as the row.
    sizes = [size for segment in row.segments for size in (segment.prompt, *segment.responses)]
    parts = zip(*(tensor.split(sizes, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> None:
        queries, keys = q.shape[2], k.shape[2]
        if queries == keys and softcap is None and (window is None or keys <= window):
            masking: dict[str, Any] = {"is_causal": True}
        else:
            masking = {"attn_mask": row.mask(queries, keys, window, q.dtype)}
        if softcap is None:
            gqa = q.shape[1] != k.shape[1]
            outputs.append(scaled_dot_product_attention(q, k, v, scale=scaling, enable_gqa=gqa, **masking))
        else:
            outputs.append(_soft_capped(q, k, v, masking["attn_mask"], scaling, softcap))

    for segment in row.segments:
        prompt = next(parts)
        attend(*prompt)
        for size in segment.responses:
            q, k, v = next(parts)
            if size:
                attend(q, torch.cat([prompt[1], k], dim=2), torch.cat([prompt[2], v], dim=2))
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1)


def _soft_capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None, softcap: float) -> Tensor:
    """softmax(softcap * tanh(scaling * q k^T / softcap) + mask) v; the softmax is in float32 or float64."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap) + mask
    return scores.softmax(dim=-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype) @ v


def _variable_length(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scaling: float | None, window: int | None
) -> Tensor:
    """All segments in one call. Flash attention aligns a response's queries with the last of its keys.

    `window` counts keys including the query's own; flash attention counts those to its left.
    """
    from torch.nn.attention.varlen import varlen_attn

    gathered, starts, longest = row.variable_length
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    options: dict[str, Any] = {}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # torch 2.11 has no such option and needs none
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    output = varlen_attn(
        q.contiguous(),
        k[gathered],
        v[gathered],
        *starts,
        *longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **options,
    )
    assert isinstance(output, Tensor)
    return output[None]
