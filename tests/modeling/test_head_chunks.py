"""Chunks of the head: sized by the device, and used wherever log-probabilities are computed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.modeling import head
from tasks.modeling.chunk_size import CPU_CHUNK, ChunkSize, gpu_chunk
from tasks.modeling.head import chunk_size, output_layer
from tasks.modeling.logprobs import TokenSequence, token_logprobs
from tasks.training.policy import add_adapters
from tasks.training.settings import LoraSettings
from tests.modeling.architectures import build

GIB = 1 << 30


@pytest.mark.parametrize(
    ("gib", "vocabulary", "chunks"),
    [
        (80, 128256, 3),
        (80, 151936, 4),
        (80, 32768, 1),
        (24, 128256, 12),
        (141, 128256, 2),
    ],
)
def test_chunks_of_6000_positions_on_a_gpu(gib: int, vocabulary: int, chunks: int) -> None:
    """The float32 logits of a chunk take at most a 64th of the memory. With a CPU's chunk there are 188."""
    memory = gib * GIB
    size = gpu_chunk(memory)
    assert -(-6000 // (size.logits // vocabulary)) == chunks
    assert memory / 128 < 4 * size.logits <= memory / 64
    assert -(-6000 // (CPU_CHUNK.logits // 128256)) == 188


def test_the_device_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 80 * GIB

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    assert chunk_size(torch.device("cpu")) == CPU_CHUNK
    assert chunk_size(torch.device("cuda", 1)) == gpu_chunk(80 * GIB) == ChunkSize(1 << 28, 1 << 28)


def test_padded_rows_never_hold_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own head is not called, and a chunk has 4 positions of 50 logits."""
    model = build("llama").float()
    assert output_layer(model) is model.lm_head
    monkeypatch.setattr(head, "CPU_CHUNK", ChunkSize(4 * 50, 0))
    monkeypatch.setattr(model.lm_head, "forward", None)
    shapes: list[torch.Size] = []
    softmax = torch.nn.functional.log_softmax

    def recorded(logits: Tensor, **options: Any) -> Tensor:
        shapes.append(logits.shape)
        return softmax(logits, **options)

    monkeypatch.setattr(head, "log_softmax", recorded)
    with torch.no_grad():
        token_logprobs(model, [TokenSequence([1, 2, 3], [4, 5, 6, 7, 8]), TokenSequence([1], [2, 3])])
    assert [tuple(shape) for shape in shapes] == [(4, 50), (3, 50)]


def test_nothing_is_kept_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    apply = head._TokenLogprobs.apply

    def recorded(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return apply(*arguments)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(head._TokenLogprobs, "apply", recorded)
    model, rows = build("llama").float(), [TokenSequence([1], [2, 3])]
    with torch.no_grad():
        token_logprobs(model, rows)
    token_logprobs(model, rows)
    assert asked == [0, CPU_CHUNK.kept]


def test_half_precision_weights_sum_their_gradient_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 chunks: summed in bfloat16, they would be off by 5 % and more."""
    noise = torch.Generator().manual_seed(0)
    hidden = torch.rand(400, 8, generator=noise).bfloat16()
    weight = torch.randn(6, 8, generator=noise).bfloat16().requires_grad_()
    targets = torch.randint(6, (400,), generator=noise)
    exact = weight.detach().double().requires_grad_()
    (hidden.double() @ exact.T).log_softmax(-1).gather(1, targets[:, None]).sum().backward()
    monkeypatch.setattr(head, "CPU_CHUNK", ChunkSize(6, 0))
    head.head_logprobs(hidden, weight, None, targets).sum().backward()
    assert weight.grad is not None
    assert exact.grad is not None
    assert weight.grad.dtype == torch.bfloat16
    assert float((weight.grad - exact.grad).norm() / exact.grad.norm()) < 0.01


def test_an_adapted_output_layer_is_not_taken_from_before() -> None:
    model = build("llama").float()
    assert output_layer(model) is model.lm_head
    adapted: Any = add_adapters(model, LoraSettings(rank=2, target_modules=["lm_head"]), seed=0)
    assert output_layer(adapted) is None
