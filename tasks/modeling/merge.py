"""Weighted sums of the weights of policies with the same architecture, written as a Hugging Face folder."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from storage.errors import UserError
from storage.files import publish_folder
from storage.manifest import CARD

INDEX = "model.safetensors.index.json"


def publish_sum(terms: Sequence[tuple[Path, float]], like: Path, out: Path) -> None:
    """Write theta = sum_i w_i theta_i, for terms (folder of theta_i, w_i), to the folder `out`.

    Sums are computed in float64 and stored with the dtypes and file names of `like`. Everything else (config,
    tokenizer, integer tensors) is copied from `like`. Holds the tensors of one file at a time. Adapters must be merged
    first: the sum of products B A is not the product of sums. Raises UserError if a folder's tensors have other names
    or shapes than those of `like`.
    """
    files_of_terms = [_tensor_files(folder) for folder, _ in terms]
    files_of_like = _tensor_files(like)
    for (folder, _), files in zip(terms, files_of_terms, strict=True):
        _check_names(files_of_like, files, like, folder)
    with publish_folder(out) as temporary:
        for path in sorted(like.iterdir()):
            hidden = path.name.startswith(".") or path.name == CARD  # the card is about `like`
            if path.is_file() and not hidden and path.suffix != ".safetensors":
                shutil.copyfile(path, temporary / path.name)
        for name in sorted(set(files_of_like.values())):
            with safe_open(like / name, framework="pt") as file:
                metadata = file.metadata()
                tensors = {
                    key: _sum(file.get_tensor(key), key, terms, files_of_terms, like)
                    for key in file.keys()  # noqa: SIM118 (not a mapping)
                }
            save_file(tensors, temporary / name, metadata=metadata)


def _sum(
    of_like: Tensor,
    key: str,
    terms: Sequence[tuple[Path, float]],
    files_of_terms: Sequence[Mapping[str, str]],
    like: Path,
) -> Tensor:
    if not of_like.is_floating_point():
        return of_like
    total = torch.zeros(of_like.shape, dtype=torch.float64)
    for (folder, weight), files in zip(terms, files_of_terms, strict=True):
        with safe_open(folder / files[key], framework="pt") as file:
            tensor = file.get_tensor(key)
        if tensor.shape != of_like.shape:
            raise _mismatch(f"{key} is {tuple(tensor.shape)} there and {tuple(of_like.shape)} in {like}", folder)
        total += weight * tensor.double()
    return total.to(of_like.dtype)


def _tensor_files(folder: Path) -> dict[str, str]:
    """Name of each tensor -> name of its file. Raises UserError if there are none."""
    index = folder / INDEX
    if index.is_file():
        listed: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        return dict(listed["weight_map"])
    files: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            files |= dict.fromkeys(file.keys(), path.name)
    if not files:
        raise UserError("there are no safetensors weights", where=str(folder), remedy="give the folder of a policy")
    return files


def _check_names(files_of_like: Mapping[str, str], files: Mapping[str, str], like: Path, folder: Path) -> None:
    different = sorted(files_of_like.keys() ^ files.keys())
    if different:
        raise _mismatch(f"{different[0]} is in only one of it and {like} ({len(different)} such tensors)", folder)


def _mismatch(what: str, folder: Path) -> UserError:
    return UserError(
        f"these weights cannot be summed: {what}",
        where=str(folder),
        remedy="sum policies of the same architecture only; merge adapters into their policies first",
    )
