"""Sharded tensors as safetensors files of each rank, by torch.distributed.checkpoint; read with any number of ranks."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from tasks.training.distributed import Ranks
from tasks.training.sharding import own

_FILE_BYTES = 1 << 30  # of a rank's file: it is put together in memory before it is written


def save_shards(tensors: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> list[str]:
    """Write each rank's shards of `tensors` into `folder`; returns the names of this rank's files. A collective.

    Scalars, such as an optimizer's step, are stored as one row. At most about 1 GiB is copied at a time.
    """
    rows = {name: tensor if tensor.ndim else tensor.reshape(1) for name, tensor in tensors.items()}
    ends = accumulate(own(row).nbytes for row in rows.values())
    before = {name: end // _FILE_BYTES for name, end in zip(rows, ends, strict=True)}
    number = {index: count for count, index in enumerate(dict.fromkeys(before.values()), start=1)}
    files = ranks.by_main(lambda: {name: number[index] for name, index in before.items()})  # equal on every rank
    dcp.save(
        rows,
        storage_writer=HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=files, save_distributed=True),
    )
    return sorted(path.name for path in folder.glob(f"shard-{ranks.rank + 1:05d}-*.safetensors"))


def load_shards(tensors: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> None:
    """Read `tensors` in place from the safetensors files in `folder`, whole or sharded over any number of ranks.

    Each rank reads what its own shards need.
    """
    reader = HuggingFaceStorageReader(str(folder))
    stored = reader.read_metadata().state_dict_metadata
    sizes = {name: entry.size for name, entry in stored.items() if isinstance(entry, TensorStorageMetadata)}
    rows = {name: tensor if tensor.ndim else tensor.reshape(sizes[name]) for name, tensor in tensors.items()}
    with torch.no_grad(), _quiet():
        dcp.load(rows, storage_reader=reader, no_dist=ranks.size == 1)


def stored_names(folder: Path) -> list[str]:
    """Names of the tensors in the safetensors files in `folder`."""
    return sorted(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
