"""Weighted sums of the weights of policies of one architecture, as an ordinary Hugging Face folder."""

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
    """Write theta = sum_i w_i theta_i, terms (folder, w_i), to the folder `out`; all but weights is copied from `like`.

    Sums are in float64 and stored in the dtype, and in the files, of `like`; tensors that are not floating-point are
    those of `like`. At most one file's tensors are held at a time. Adapters must be merged first: sums of A and of B
    are not sums of their products. Raises UserError when a folder's tensors have other names or shapes than `like`'s.
    """
    places = [_places(folder) for folder, _ in terms]
    own = _places(like)
    for (folder, _), found in zip(terms, places, strict=True):
        _check_names(own, found, like, folder)
    with publish_folder(out) as temporary:
        for path in sorted(like.iterdir()):
            hidden = path.name.startswith(".") or path.name == CARD  # the card is about `like`
            if path.is_file() and not hidden and path.suffix != ".safetensors":
                shutil.copyfile(path, temporary / path.name)
        for name in sorted(set(own.values())):
            with safe_open(like / name, framework="pt") as file:
                metadata = file.metadata()
                tensors = {
                    key: _sum(file.get_tensor(key), key, terms, places, like)
                    for key in file.keys()  # noqa: SIM118 (not a mapping)
                }
            save_file(tensors, temporary / name, metadata=metadata)


def _sum(
    own: Tensor, key: str, terms: Sequence[tuple[Path, float]], places: Sequence[Mapping[str, str]], like: Path
) -> Tensor:
    if not own.is_floating_point():
        return own
    total = torch.zeros(own.shape, dtype=torch.float64)
    for (folder, weight), found in zip(terms, places, strict=True):
        with safe_open(folder / found[key], framework="pt") as file:
            tensor = file.get_tensor(key)
        if tensor.shape != own.shape:
            raise _other(f"{key} is {tuple(tensor.shape)} there and {tuple(own.shape)} in {like}", folder)
        total += weight * tensor.double()
    return total.to(own.dtype)


def _places(folder: Path) -> dict[str, str]:
    """Name of each tensor -> file that holds it."""
    index = folder / INDEX
    if index.is_file():
        listed: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        return dict(listed["weight_map"])
    places: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), path.name)
    if not places:
        raise UserError("there are no safetensors weights", where=str(folder), remedy="give a policy's folder")
    return places


def _check_names(own: Mapping[str, str], found: Mapping[str, str], like: Path, folder: Path) -> None:
    other = sorted(own.keys() ^ found.keys())
    if other:
        raise _other(f"{other[0]} is in only one of it and {like} ({len(other)} such tensors)", folder)


def _other(what: str, folder: Path) -> UserError:
    return UserError(
        f"these weights cannot be added up: {what}",
        where=str(folder),
        remedy="sum policies of one architecture only; merge adapters into their policies first",
    )
