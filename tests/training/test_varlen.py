"""Variable-length attention over packed rows, with flash attention's rule written out for a CPU; and its dtypes."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from tasks.training import attention
from tasks.training.batching import PackedForward
from tasks.training.groups import PromptGroup
from tasks.training.packing import PackedRow
from tests.modeling.architectures import VOCABULARY, build

#: Tokens of prompts and their responses: single tokens, and lengths above the sliding windows.
LENGTHS = [(7, (5, 1, 9)), (3, (2, 2)), (1, (1, 4)), (20, (11, 6))]


def groups() -> list[PromptGroup]:
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(VOCABULARY, size=length).astype(np.int32)

    return [
        PromptGroup(str(number), 1, ids(prompt), list(range(len(sizes))), [ids(size) for size in sizes], [])
        for number, (prompt, sizes) in enumerate(LENGTHS)
    ]


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """Query i of n, over m keys, is at position m - n + i and attends from `window_size[0]` keys to its left."""
    assert window_size[1] == 0
    assert query_starts.dtype == key_starts.dtype == torch.int32
    outputs = []
    for (q0, q1), (k0, k1) in zip(
        query_starts.unfold(0, 2, 1).tolist(), key_starts.unfold(0, 2, 1).tolist(), strict=True
    ):
        n, m = q1 - q0, k1 - k0
        assert n <= longest_query
        assert m <= longest_key
        position, other = torch.arange(n)[:, None] + m - n, torch.arange(m)
        visible = other <= position
        if window_size[0] >= 0:
            visible &= other >= position - window_size[0]
        repeats = query.shape[1] // key.shape[1]
        keys, values = (tensor[k0:k1].repeat_interleave(repeats, 1) for tensor in (key, value))
        scores = torch.einsum("nhd,mhd->hnm", query[q0:q1], keys) * (scale or query.shape[-1] ** -0.5)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hnm,mhd->nhd", weights, values))
    return torch.cat(outputs)


def flash_with_gqa(*arguments: Any, enable_gqa: bool = False, **options: Any) -> Tensor:
    """As in torch 2.13, which asks for the option when keys have fewer heads."""
    assert enable_gqa is (arguments[0].shape[1] != arguments[1].shape[1])
    return flash(*arguments, **options)


@pytest.mark.parametrize("kernel", [flash, flash_with_gqa], ids=["torch 2.11", "torch 2.13"])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("window", [None, 4])
def test_arrays_give_segment_wise_attention(
    monkeypatch: pytest.MonkeyPatch, window: int | None, heads: int, kernel: Any
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    row = PackedRow.of(groups(), torch.device("cpu"))
    tokens = row.ids.shape[1]
    noise = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, count, tokens, 8, dtype=torch.float64, generator=noise).requires_grad_()
        for count in (4, heads, heads)
    )
    expected = attention._by_segment(q, k, v, row, 0.3, window, None)
    actual = attention._variable_length(q, k, v, row, 0.3, window)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    slopes = [torch.autograd.grad(output.sin().sum(), (q, k, v)) for output in (expected, actual)]
    torch.testing.assert_close(slopes[1], slopes[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen3"])
def test_a_layer_makes_one_call(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The log-probabilities of a whole model stay those of segment-wise attention."""
    model, data, calls = build(name), groups(), []

    @functools.wraps(flash_with_gqa)
    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(arguments[0].shape)
        return flash_with_gqa(*arguments, **options)

    expected = PackedForward(model, 1000).logprobs(data)[1]
    monkeypatch.setattr(varlen, "varlen_attn", counted)
    monkeypatch.setattr(attention, "_has_flash_kernel", lambda query: True)
    actual = PackedForward(model, 1000).logprobs(data)[1]
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)
    assert len(calls) == model.config.num_hidden_layers


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3"])
def test_autocast_attends_in_half_precision(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Rotary embeddings return float32 queries and keys; flash attention would never be taken."""
    seen: list[set[torch.dtype]] = []
    segments = attention._by_segment

    def recorded(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Tensor:
        seen.append({query.dtype, key.dtype, value.dtype})
        return segments(query, key, value, *rest)

    monkeypatch.setattr(attention, "_by_segment", recorded)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        PackedForward(build(name).float(), 1000).logprobs(groups())
    assert seen == [{torch.bfloat16}] * 3


@pytest.mark.parametrize(
    ("device", "dtype", "size", "capability", "taken"),
    [
        ("cuda", torch.bfloat16, 128, (9, 0), True),
        ("cuda", torch.float16, 256, (8, 0), True),
        ("cuda", torch.float32, 128, (9, 0), False),
        ("cuda", torch.bfloat16, 512, (9, 0), False),
        ("cuda", torch.bfloat16, 100, (9, 0), False),
        ("cuda", torch.bfloat16, 128, (7, 5), False),
        ("cpu", torch.bfloat16, 128, (9, 0), False),
    ],
)
def test_where_flash_attention_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    dtype: torch.dtype,
    size: int,
    capability: tuple[int, int],
    taken: bool,
) -> None:
    class Query:
        def __init__(self) -> None:
            self.device, self.dtype, self.shape, self.is_cuda = device, dtype, (1, 4, 9, size), device == "cuda"

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert attention._has_flash_kernel(Query()) is taken  # type: ignore[arg-type]
