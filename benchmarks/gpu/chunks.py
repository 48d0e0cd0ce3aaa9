"""The head by itself: milliseconds and memory by the number of logits in a chunk."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu.bench import SHAPES, Bench, Row
from tasks.modeling import head
from tasks.modeling.chunk_size import ChunkSize
from tasks.modeling.head import chunk_size


def measure(bench: Bench) -> list[Row]:
    """Response positions of a micro-batch, forward and backward. The chunk that a stage takes here comes first."""
    shape = SHAPES[bench.names[-1]]
    positions = 64 if bench.tiny else 6000
    chosen = chunk_size(torch.device(bench.device))
    weight = (torch.randn(shape.vocabulary, shape.width, device=bench.device) * 0.02).requires_grad_()
    hidden = torch.randn(positions, shape.width, device=bench.device, dtype=torch.bfloat16).requires_grad_()
    targets = torch.randint(shape.vocabulary, (positions,), device=bench.device)
    floor = 6 * positions * shape.width * shape.vocabulary / bench.peak

    def work() -> None:
        with bench.autocast():
            total = head.head_logprobs(hidden, weight, None, targets).sum()
        total.backward()
        weight.grad = hidden.grad = None

    rows: list[Row] = []
    for size in (chosen, *(ChunkSize(1 << bits, 1 << bits) for bits in (22, 24, 26, 28, 30))):
        with _chunks_of(size), bench.memory() as gib:
            seconds = bench.seconds(work)
        rows.append(
            {
                "logits in a chunk": f"2^{size.logits.bit_length() - 1}",
                "chunks": -(-positions // max(1, size.logits // shape.vocabulary)),
                "ms": 1e3 * seconds,
                "times the matmul floor": seconds / floor,
                "GiB above": gib["peak"] - gib["before"],
            }
        )
    return rows


@contextmanager
def _chunks_of(size: ChunkSize) -> Iterator[None]:
    before = head.chunk_size
    head.chunk_size = lambda device: size
    try:
        yield
    finally:
        head.chunk_size = before
