"""Ranks: the processes that train a policy together, and the collectives between them.

`local_ranks` starts them on this machine; torchrun or accelerate on several that share the run folder. Every rank reads
the same files and takes the same optimizer steps; rank 0 writes. Each rank forwards its share of a step's groups.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from storage.errors import UserError
from storage.files import publish_folder
from tasks.training.batching import Forward
from tasks.training.groups import PromptGroup
from tasks.training.local_ranks import STORE

T = TypeVar("T")

#: How long ranks wait in a collective. Rank 0 writes files meanwhile: minutes, for large policies.
_TIMEOUT = timedelta(hours=2)


class MainFailed(Exception):
    """Rank 0 failed while the others waited for it. Its own error says why."""


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the number of ranks. A single process is rank 0 of 1 and communicates with nobody."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes files."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks, on every rank."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum of `values` over all ranks, on every rank."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return values
        values = values.detach().clone()
        dist.all_reduce(values, operation)
        return values

    def by_main(self, do: Callable[[], T]) -> T:
        """Call `do` on rank 0 only, and return its result on every rank: to write files, or read files that change.

        If `do` raises, rank 0 raises its error and the others raise MainFailed.
        """
        if self.size == 1:
            return do()
        if not self.main:
            outcome: list[tuple[bool, T] | None] = [None]
            dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
            assert outcome[0] is not None
            succeeded, result = outcome[0]
            if not succeeded:
                raise MainFailed("rank 0 failed; its error says why")
            return result
        try:
            result = do()
        except BaseException:
            dist.broadcast_object_list([(False, None)], src=0, device=torch.device("cpu"))
            raise
        dist.broadcast_object_list([(True, result)], src=0, device=torch.device("cpu"))
        return result

    def sent_by_main(self, values: Tensor) -> Tensor:
        """Rank 0's `values` on every rank; other ranks give a tensor of the same shape, which is overwritten."""
        if self.size > 1:
            dist.broadcast(values, src=0)
        return values

    def wait(self) -> None:
        """Return when all ranks are here."""
        self.total(torch.zeros(1))

    def collected(self, value: T) -> list[T]:
        """The `value` of every rank, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return [each for each in values if each is not None]

    @contextmanager
    def publish_folder(self, folder: Path) -> Iterator[Path]:
        """`storage.files.publish_folder` in which all ranks write. Rank 0 makes, syncs and renames the folder."""
        stack = ExitStack()
        temporary = self.by_main(lambda: stack.enter_context(publish_folder(folder)))
        with stack:  # after an error in the body, it removes the temporary folder
            yield temporary
            self.wait()
            self.by_main(stack.close)

    def rows(self, forward: Forward, groups: Sequence[PromptGroup]) -> list[list[list[int]]]:
        """The groups (indices) of each forward of each rank: [rank][row] -> groups, with as many rows on every rank.

        Tokens are balanced greedily: largest group first, each to the rank with the fewest tokens. A forward is a
        collective, so ranks with fewer rows get empty rows at the end.
        """
        if self.size == 1:
            return [forward.batches(groups)]
        loads = [0] * self.size
        shares: list[list[int]] = [[] for _ in loads]
        for index in sorted(range(len(groups)), key=lambda i: (-forward.tokens_of(groups[i]), i)):
            least = min(range(self.size), key=lambda rank: (loads[rank], rank))
            loads[least] += forward.tokens_of(groups[index])
            shares[least].append(index)
        rows = [[[share[i] for i in row] for row in forward.batches([groups[i] for i in share])] for share in shares]
        most = max(map(len, rows))
        return [rank_rows + [[] for _ in range(most - len(rank_rows))] for rank_rows in rows]


ALONE = Ranks()


def started_together() -> bool:
    """Whether a launcher started this process as one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Connect the ranks that the launcher started: gloo, and NCCL if `device` is cuda. Without a launcher: ALONE.

    A process can connect only once: if it is connected already, it stays connected at the end.
    Raises UserError when the machine has fewer GPUs than processes.
    """
    if not started_together():
        yield ALONE
        return
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda" and local >= torch.cuda.device_count():
        raise UserError(
            f"there is no GPU for process {local + 1} of this machine: it has {torch.cuda.device_count()}",
            where="training.processes, or torchrun --nproc-per-node",
            remedy="start as many processes as there are GPUs",
        )
    if device == "cuda":
        torch.cuda.set_device(local)
    backend, size = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", int(os.environ["WORLD_SIZE"])
    if STORE in os.environ:  # on one machine: by a file, with no port
        store = dist.FileStore(os.environ[STORE], size)
        dist.init_process_group(backend, store=store, rank=local, world_size=size, timeout=_TIMEOUT)
    else:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    yield Ranks(dist.get_rank(), dist.get_world_size())
    # Not after an error: other ranks may wait in a collective, and the launcher ends them.
    dist.destroy_process_group()
