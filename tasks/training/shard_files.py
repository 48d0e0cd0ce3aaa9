"""Read and write a sharded policy's safetensors files by shard: no process holds the whole policy.

A shard is a range of rows, which is a contiguous range of bytes in a safetensors file. So each rank reads its rows of
every tensor, and writes them at their place in the same files.
"""

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tasks.modeling.policy_folder import INDEX, SINGLE, read_header, tensor_files
from tasks.training.distributed import Ranks
from tasks.training.policy import copy_other_files
from tasks.training.sharding import first_row, own, placed_like

if TYPE_CHECKING:
    from huggingface_hub import StateDictSplit
    from transformers import PreTrainedModel

_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL", torch.uint8: "U8"}
_ADAPTED = "base_model.model."  # before the name of a weight in a PeftModel
_LARGEST_FILE = "50GB"  # as in transformers' save_pretrained


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's own weights and persistent buffers by their names in its files; tied weights occur once.

    Adapters of a PeftModel are left out.
    """
    persistent = model.state_dict().keys()
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {
        name.removeprefix(_ADAPTED).replace(".base_layer.", "."): tensor
        for name, tensor in tensors.items()
        if not (name.startswith(_ADAPTED) and ".lora_" in name)
    }


def readable_by_shard(model: nn.Module, folder: Path) -> bool:
    """Whether the files in `folder` have the weights of `model` under its own names and in its shapes.

    transformers renames or merges the weights of some architectures (experts, mostly) when it loads them.
    """
    files = tensor_files(folder)
    headers = {path: read_header(path) for path in set(files.values())}
    return all(
        name in files and headers[files[name]][name]["shape"] == list(tensor.shape)
        for name, tensor in stored_tensors(model).items()
    )


def read_shards(model: "PreTrainedModel", folder: Path) -> None:
    """Fill the sharded `model` with the weights in `folder`; each rank reads its own rows, one tensor at a time."""
    files = tensor_files(folder)
    with torch.no_grad():
        for name, tensor in stored_tensors(model).items():
            with safe_open(files[name], framework="pt") as file:
                if isinstance(tensor, DTensor):
                    local, start = own(tensor), first_row(tensor)
                    local.copy_(file.get_slice(name)[start : start + len(local)])
                else:
                    tensor.copy_(file.get_tensor(name))


def read_from_main(model: "PreTrainedModel", open_whole: Callable[[], "PreTrainedModel"], ranks: Ranks) -> None:
    """Fill the sharded `model` where `readable_by_shard` does not hold: rank 0 opens the whole policy and sends it.

    One tensor at a time; only rank 0's machine holds the whole policy.
    """
    whole: dict[str, Tensor] = {}
    ranks.by_main(lambda: whole.update(stored_tensors(open_whole())))
    with torch.no_grad():
        for name, tensor in stored_tensors(model).items():
            full = whole[name].detach() if ranks.main else torch.empty(tensor.shape, dtype=tensor.dtype)
            tensor.copy_(placed_like(ranks.sent_by_main(full), tensor))


def write_shards(model: "PreTrainedModel", source: Path, folder: Path, ranks: Ranks) -> None:
    """Publish the sharded `model` as `publish_policy` does, with the same bytes; a collective.

    Each rank writes its own rows, one tensor at a time, so the run folder must be shared by all of them.
    """
    tensors = stored_tensors(model)
    places = _places(tensors)
    with ranks.publish_folder(folder) as temporary:
        ranks.by_main(lambda: _start_files(temporary, tensors, places))
        for name, tensor in tensors.items():
            rows = own(tensor).detach()
            if not ranks.main and not isinstance(tensor, DTensor):
                continue
            rows = (rows.float() if rows.is_floating_point() else rows).cpu().contiguous()
            start = first_row(tensor) if isinstance(tensor, DTensor) else 0
            with open(temporary / places[name].file, "rb+") as file:
                file.seek(places[name].offset + start * prod(tensor.shape[1:]) * rows.element_size())
                file.write(rows.reshape(-1).view(torch.uint8).numpy().data)
        ranks.wait()
        ranks.by_main(lambda: copy_other_files(source, temporary))


class _Place(NamedTuple):
    file: str
    offset: int  # of its first byte in the file


def _places(tensors: Mapping[str, Tensor]) -> dict[str, _Place]:
    """Where each tensor begins. Files and their order are those of save_pretrained."""
    return {
        name: _Place(file, offset)
        for file, names in _split(tensors).filename_to_tensors.items()
        for name, offset in _header(tensors, names)[1].items()
    }


def _split(tensors: Mapping[str, Tensor]) -> "StateDictSplit":
    from huggingface_hub import split_torch_state_dict_into_shards

    shapes = {name: torch.empty(t.shape, dtype=_written(t), device="meta") for name, t in tensors.items()}
    return split_torch_state_dict_into_shards(shapes, max_shard_size=_LARGEST_FILE)


def _written(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def _header(tensors: Mapping[str, Tensor], names: list[str]) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a safetensors file, and the offset of each tensor in the file.

    The library's own order: larger dtypes first, then by name.
    """
    entries: dict[str, dict[str, object]] = {"__metadata__": {"format": "pt"}}
    ends: dict[str, int] = {}
    end = 0
    for name in sorted(names, key=lambda name: (-_written(tensors[name]).itemsize, name)):
        start, end = end, end + tensors[name].numel() * _written(tensors[name]).itemsize
        entries[name] = {
            "dtype": _DTYPES[_written(tensors[name])],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
        ends[name] = start
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, {name: 8 + len(text) + start for name, start in ends.items()}


def _start_files(folder: Path, tensors: Mapping[str, Tensor], places: Mapping[str, _Place]) -> None:
    """Write headers and index, and give every file its size."""
    split = _split(tensors)
    for name, names in split.filename_to_tensors.items():
        with open(folder / name, "wb") as file:
            file.write(_header(tensors, names)[0])
            file.truncate(max(places[n].offset + tensors[n].numel() * _written(tensors[n]).itemsize for n in names))
    if split.is_sharded:
        numbers = sum(tensor.numel() for tensor in tensors.values() if isinstance(tensor, nn.Parameter))
        index = {"metadata": {"total_parameters": numbers, **split.metadata}, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    else:
        assert set(split.filename_to_tensors) == {SINGLE}
