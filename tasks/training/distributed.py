"""The processes that train a policy together (ranks): what each of them does, and what all of them must agree on.

torchrun or accelerate starts them, on one machine or several that share the run folder. Every rank reads the same
files and takes the same steps; only the main one writes. Of each optimizer step's groups a rank forwards its share.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from storage.errors import UserError
from tasks.training.batching import Forward
from tasks.training.groups import PromptGroup

T = TypeVar("T")

#: The main rank writes files while the others wait for it: minutes, for large policies.
_PATIENCE = timedelta(hours=2)


class MainFailed(Exception):
    """The main rank failed at what all others wait for. Why is said by that one."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together; one process alone is rank 0 of 1, and sends nothing."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks, on all of them."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """The largest of `values` over all ranks, on all of them."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return values
        values = values.detach().clone()
        dist.all_reduce(values, operation)
        return values

    def by_main(self, do: Callable[[], T]) -> T:
        """What `do` returns on the main rank, on all of them: for reading what is about to change, and for writing.

        Raises what it raises on the main rank, MainFailed on the others.
        """
        if self.size == 1:
            return do()
        if not self.main:
            answer: list[tuple[bool, T] | None] = [None]
            dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
            assert answer[0] is not None
            good, result = answer[0]
            if not good:
                raise MainFailed("the main process failed; its own message says why")
            return result
        try:
            result = do()
        except BaseException:
            dist.broadcast_object_list([(False, None)], src=0, device=torch.device("cpu"))
            raise
        dist.broadcast_object_list([(True, result)], src=0, device=torch.device("cpu"))
        return result

    def rows(self, forward: Forward, groups: Sequence[PromptGroup]) -> list[list[list[int]]]:
        """Which groups (indices) each rank forwards together: rank -> rows -> groups, as many rows for every rank.

        Tokens are shared out evenly, the largest group first, each to the rank that has least. All ranks take part in
        every forward, so a rank that is through has empty rows at its end.
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
        return [mine + [[] for _ in range(most - len(mine))] for mine in rows]


ALONE = Ranks()


def started_together() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks that the launcher started, connected: over gloo, and NCCL where `device` is cuda. Else this one alone.

    Ranks that are connected already stay so: a process can connect once.
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
            f"process {local + 1} of this machine has no GPU of its own: there are {torch.cuda.device_count()}",
            where="training.processes, or torchrun --nproc-per-node",
            remedy="start as many processes as there are GPUs",
        )
    if device == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    yield Ranks(dist.get_rank(), dist.get_world_size())
    # Not after a failure: the others may wait in a collective, and the launcher ends them.
    dist.destroy_process_group()
