"""Forwards over many sequences: in batches of similar length, and on a CPU several at a time.

If the threads of a CPU share a forward, each waits for the others after every operation. Where another process has one
of the cores, that takes a turn of the scheduler each time: a forward of 0.04 s took up to 2.8 s. So each thread does
batches of its own, whose activations fit its core's cache, and waits for nobody.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import torch

from tasks.modeling.head import twin

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_TOKENS = 512  # padded tokens of one forward on a CPU: the same on every machine, as batches decide last digits

R = TypeVar("R")

_lock = threading.Lock()  # of the list below
_whole: list[int] = []  # torch's threads before each use of `_shared_threads` that has not ended


def batched(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Batches of indices of sequences with these lengths, longest first.

    A batch has at most `tokens` padded tokens, or one sequence.
    """
    result: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if result and lengths[result[-1][0]] * (len(result[-1]) + 1) <= tokens:
            result[-1].append(index)
        else:
            result.append([index])
    return result


def forwards(
    model: "PreTrainedModel",
    lengths: Sequence[int],
    tokens: int,
    work: Callable[["PreTrainedModel", list[int]], R],
) -> Iterator[tuple[list[int], R]]:
    """`work` with the model and each batch of sequences with these lengths, no gradient; yields batch and result.

    tokens: padded tokens of all forwards at a time. On a CPU `work` runs in several threads, each with the model or
    with a copy that shares its parameters.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    own = min(tokens, CPU_TOKENS) if on_cpu else tokens
    batches = batched(lengths, own)
    room = tokens // max(own, *lengths) if on_cpu and lengths else 1
    lanes = min(len(batches), room, torch.get_num_threads())
    if lanes > 1:
        yield from _side_by_side(model, batches, work, lanes)
        return
    for batch in batches:
        with torch.inference_mode():
            result = work(model, batch)
        yield batch, result


def _side_by_side(
    model: "PreTrainedModel",
    batches: Sequence[list[int]],
    work: Callable[["PreTrainedModel", list[int]], R],
    lanes: int,
) -> Iterator[tuple[list[int], R]]:
    """As `forwards`, `lanes` batches at a time."""
    idle: SimpleQueue[PreTrainedModel] = SimpleQueue()
    # A thread has neither inference mode nor autocast of the one that started it.
    dtype, casts = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def forward(batch: list[int]) -> R:
        own = idle.get()
        try:
            with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=casts):
                return work(own, batch)
        finally:
            idle.put(own)

    with _shared_threads(lanes), ThreadPoolExecutor(lanes, thread_name_prefix="forward") as threads:
        for copy in (model, *(twin(model) for _ in range(lanes - 1))):
            idle.put(copy)
        yield from zip(batches, threads.map(forward, batches), strict=True)


@contextmanager
def _shared_threads(lanes: int) -> Iterator[None]:
    """Within, this thread and new ones have their share of torch's threads.

    The lock is not held while forwards run, so that a caller can start other forwards while it reads these results.
    A thread that is started within sees only its share. So the number to restore is the largest of all current uses.
    """
    with _lock:
        whole = max(torch.get_num_threads(), *_whole, 1)
        _whole.append(whole)
    torch.set_num_threads(max(1, whole // lanes))
    try:
        yield
    finally:
        torch.set_num_threads(whole)
        with _lock:
            _whole.remove(whole)
