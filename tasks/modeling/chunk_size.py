"""How many logits the output layer computes at a time: by device, and without torch, for the memory plan too."""

from typing import NamedTuple


class ChunkSize(NamedTuple):
    """How many logits are computed at a time, and how many are kept for the backward pass; the rest is recomputed."""

    logits: int
    kept: int


#: 16 MiB of float32 logits, which a CPU's cache holds, and 128 MiB kept.
CPU_CHUNK = ChunkSize(1 << 22, 1 << 25)
_SHARE_OF_GPU = 64  # a chunk's float32 logits take at most this fraction of a GPU's memory


def gpu_chunk(memory: int) -> ChunkSize:
    """The chunk for a GPU with `memory` bytes: a power of two of logits, as many of which are kept.

    It follows from the card alone, not from what is free, so that a resumed stage computes the same.
    """
    logits = 1 << (memory // (4 * _SHARE_OF_GPU)).bit_length() - 1
    return ChunkSize(logits, logits)
