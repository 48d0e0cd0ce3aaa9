"""Weighted sums of the weights of policies with the same architecture, written as a Hugging Face folder."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from storage.errors import UserError
from storage.files import publish_folder
from storage.manifest import CARD
from tasks.modeling.policy_folder import tensor_files
from tasks.modeling.save import keep_nominal_dtype


def publish_sum(terms: Sequence[tuple[Path, float]], like: Path, out: Path) -> None:
    """Write theta = sum_i w_i theta_i, for terms (folder of theta_i, w_i), to the folder `out`.

    Sums are computed in float64 and stored in float32 (float64 where `like` is), with the file names of `like`: the
    next round starts from them (`tasks.modeling.save`). Everything else (config, tokenizer, integer tensors) is copied
    from `like`. Holds the tensors of one file at a time. Adapters must be merged first: the sum of products B A is not
    the product of sums. Raises UserError if a folder's tensors have other names or shapes than those of `like`.
    """
    files_of_terms = [tensor_files(folder) for folder, _ in terms]
    files_of_like = tensor_files(like)
    for (folder, _), files in zip(terms, files_of_terms, strict=True):
        _check_names(files_of_like, files, like, folder)
    with publish_folder(out) as temporary:
        for path in sorted(like.iterdir()):
            hidden = path.name.startswith(".") or path.name == CARD  # the card is about `like`
            if path.is_file() and not hidden and path.suffix != ".safetensors":
                shutil.copyfile(path, temporary / path.name)
        for path in sorted(set(files_of_like.values())):
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {
                    key: _sum(file.get_tensor(key), key, terms, files_of_terms, like)
                    for key in file.keys()  # noqa: SIM118 (not a mapping)
                }
            save_file(tensors, temporary / path.name, metadata=metadata)
        if (like / "config.json").is_file():
            keep_nominal_dtype(like, temporary)


def _sum(
    of_like: Tensor,
    key: str,
    terms: Sequence[tuple[Path, float]],
    files_of_terms: Sequence[Mapping[str, Path]],
    like: Path,
) -> Tensor:
    if not of_like.is_floating_point():
        return of_like
    total = torch.zeros(of_like.shape, dtype=torch.float64)
    for (folder, weight), files in zip(terms, files_of_terms, strict=True):
        with safe_open(files[key], framework="pt") as file:
            tensor = file.get_tensor(key)
        if tensor.shape != of_like.shape:
            raise _mismatch(f"{key} is {tuple(tensor.shape)} there and {tuple(of_like.shape)} in {like}", folder)
        total += weight * tensor.double()
    return total.to(torch.promote_types(of_like.dtype, torch.float32))


def _check_names(files_of_like: Mapping[str, Path], files: Mapping[str, Path], like: Path, folder: Path) -> None:
    different = sorted(files_of_like.keys() ^ files.keys())
    if different:
        raise _mismatch(f"{different[0]} is in only one of it and {like} ({len(different)} such tensors)", folder)


def _mismatch(what: str, folder: Path) -> UserError:
    return UserError(
        f"these weights cannot be summed: {what}",
        where=str(folder),
        remedy="sum policies of the same architecture only; merge adapters into their policies first",
    )
