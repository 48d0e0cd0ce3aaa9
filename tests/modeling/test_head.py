"""The chunked head against log_softmax of the full logits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tasks.modeling import head
from tasks.modeling.chunk_size import ChunkSize
from tasks.modeling.head import head_logprobs

N, H, V = 37, 8, 23


def inputs(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    noise = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=noise, dtype=torch.float64).requires_grad_()
    weight = torch.randn(V, H, generator=noise, dtype=torch.float64).requires_grad_()
    shift = torch.randn(V, generator=noise, dtype=torch.float64).requires_grad_() if bias else None
    return hidden, weight, shift, torch.randint(V, (N,), generator=noise)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("chunk", "kept"), [(1, 0), (5 * V, 0), (5 * V, 12 * V), (10**9, 10**9)])
def test_values_and_gradients(monkeypatch: pytest.MonkeyPatch, bias: bool, chunk: int, kept: int) -> None:
    """For any chunk size, with kept and with recomputed logits."""
    monkeypatch.setattr(head, "CPU_CHUNK", ChunkSize(chunk, kept))
    hidden, weight, shift, targets = inputs(bias)
    leaves = [leaf for leaf in (hidden, weight, shift) if leaf is not None]
    slope = torch.linspace(-1, 1, N, dtype=torch.float64)
    plain = torch.nn.functional.linear(hidden, weight, shift).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected = torch.autograd.grad(plain, leaves, slope)
    chunked = head_logprobs(hidden, weight, shift, targets)
    torch.testing.assert_close(chunked, plain, atol=1e-12, rtol=0)
    for _ in range(2):  # the second backward pass has no kept logits
        gradients = torch.autograd.grad(chunked, leaves, slope, retain_graph=True)
        torch.testing.assert_close(gradients, expected, atol=1e-12, rtol=0)


def test_frozen_weights_have_no_gradient() -> None:
    hidden, weight, _, targets = inputs(False)
    head_logprobs(hidden, weight.detach(), None, targets).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_full_logits_are_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CPU_CHUNK", ChunkSize(4 * V, 0))
    largest = 0
    plain: Callable[..., Tensor] = torch.nn.functional.log_softmax

    def recorded(logits: Tensor, **options: object) -> Tensor:
        nonlocal largest
        largest = max(largest, logits.numel())
        return plain(logits, **options)

    monkeypatch.setattr(head, "log_softmax", recorded)
    hidden, weight, _, targets = inputs(False)
    head_logprobs(hidden, weight, None, targets).sum().backward()
    assert largest == 4 * V


def test_autocast_equals_a_plain_head() -> None:
    hidden, weight, _, targets = inputs(False)
    hidden, weight = (value.detach().float().requires_grad_() for value in (hidden, weight))
    leaves = [hidden, weight]
    with torch.autocast("cpu", torch.bfloat16):
        plain = torch.nn.functional.linear(hidden, weight).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        chunked = head_logprobs(hidden, weight, None, targets)
    assert chunked.dtype == torch.float32
    torch.testing.assert_close(chunked, plain, atol=1e-6, rtol=0)
    expected = torch.autograd.grad(plain.sum(), leaves)
    gradients = torch.autograd.grad(chunked.sum(), leaves)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    torch.testing.assert_close(gradients, expected, atol=2e-2, rtol=2e-2)
