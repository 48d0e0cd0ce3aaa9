"""What two ranks hold while they load, forward and publish a policy, for test_sharded.py.

    python -m tasks.training.local_ranks 2 <store> tests.training.sharded_memory <policy> <folder>

Each rank writes <folder>/rank-N.json.
"""

import gc
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from tasks.modeling.load import load_policy
from tasks.modeling.unread import open_unread
from tasks.processes import die_with_parent
from tasks.training.distributed import Ranks, joined
from tasks.training.shard_files import read_from_main, read_shards, write_shards
from tasks.training.sharding import own, shard

MIB = 1 << 20


def peak_above(work: Callable[[], Any]) -> tuple[float, Any]:
    """MiB by which the resident memory of this process was larger during `work` than before; and its result."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = psutil.Process().memory_info().rss
    result = work()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / MIB - before / MIB, result


def sharded(policy: Path, dtype: torch.dtype) -> Any:
    model = open_unread(policy)
    shard(model, torch.device("cpu"), dtype)
    read_shards(model, policy)
    return model


def read_whole(policy: Path) -> Any:
    """As before: every rank reads the policy, then keeps its shard."""
    model = load_policy(policy, dtype="float32", device="cpu")
    shard(model, torch.device("cpu"), torch.float32)
    return model


def held(model: Any, context: AbstractContextManager[Any]) -> int:
    """Bytes of whole weight matrices of the layers that autograd holds after a forward."""
    shapes = {tuple(p.shape) for layer in model.model.layers for p in layer.parameters() if p.ndim == 2}
    shapes |= {shape[::-1] for shape in shapes}
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) in shapes:
            saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), context:
        total = model(input_ids=torch.arange(7)[None], use_cache=False).logits.float().sum()
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().size() for tensor in saved}
    total.backward()
    return sum(storages.values())


def measure(policy: Path, folder: Path, ranks: Ranks) -> dict[str, float]:
    sharded(policy, torch.float32)  # the first call imports libraries
    shard_mib, model = peak_above(lambda: sharded(policy, torch.bfloat16))
    mixed = held(model, nullcontext())
    publish_mib, _ = peak_above(lambda: write_shards(model, policy, folder / "policy", ranks))
    whole_mib, whole = peak_above(lambda: read_whole(policy))
    autocast = held(whole, torch.autocast("cpu", torch.bfloat16))
    sent = open_unread(policy)
    shard(sent, torch.device("cpu"), torch.float32)
    read_from_main(sent, lambda: load_policy(policy, dtype="float32", device="cpu"), ranks)
    shards = [[own(parameter) for parameter in each.parameters()] for each in (model, sent)]
    return {
        "shards that differ when rank 0 sends": sum(not torch.equal(*pair) for pair in zip(*shards, strict=True)),
        "read whole, MiB": whole_mib,
        "read by shard, MiB": shard_mib,
        "publish by shard, MiB": publish_mib,
        "held under autocast, bytes": autocast,
        "held with MixedPrecisionPolicy, bytes": mixed,
    }


if __name__ == "__main__":
    die_with_parent()
    with joined("cpu") as ranks:
        figures = measure(Path(sys.argv[1]), Path(sys.argv[2]), ranks)
        (Path(sys.argv[2]) / f"rank-{ranks.rank}.json").write_text(json.dumps(figures))
