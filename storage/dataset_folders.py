"""Folders of data files: shards of JSON lines or Parquet, and what save_to_disk of datasets writes."""

import json
import re
from pathlib import Path
from typing import Any

from storage.errors import UserError
from storage.files import digest, sha256_file

FORMATS = ".jsonl, .json, .parquet (also .jsonl.gz, .jsonl.zst), or a folder of these"

_DATA = (".jsonl", ".ndjson", ".json", ".parquet", ".gz", ".zst")
#: Files of a folder that hold no rows.
_NO_DATA = re.compile(
    r"README.*|LICENSE.*|.*\.(md|ya?ml|py|sha256|lock)|dataset_infos?\.json|state\.json|_SUCCESS|", re.IGNORECASE
)
_SHARD = re.compile(r"(?P<split>.+?)[-_]\d{3,}(-of-\d{3,})?(-[0-9a-f]{16})?")
_SPLITS = ("train", "training", "test", "validation", "valid", "val", "dev", "eval")


def data_files(path: Path, *, split: str | None = None) -> list[Path]:
    """The file itself, or the data files of a folder, in the order of their names (of save_to_disk: as it says).

    Raises UserError when nothing is there, when a folder has several splits and none is named, when `split` is not
    one of them, and for a file in the folder that is not a data file.
    """
    try:
        if path.is_dir():
            return _of_folder(path, split)
        exists = path.is_file()
        if not exists and path.exists():
            raise _no_file(path)
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror}", where=str(path), remedy="fix its permissions") from None
    if not exists:
        raise UserError(
            "there is no such file or folder",
            where=str(path),
            remedy=f"give the path of a {FORMATS}; for prompts also a data set's id on the hub, with prompts.split",
        )
    if split is not None:
        raise UserError(
            "a file has no splits", where=str(path), remedy="leave the split out (prompts.split=null), or give a folder"
        )
    return [path]


def content_digest(path: Path, *, split: str | None = None) -> str:
    """sha256 (hex) of a data file, or over the names and sha256 of a folder's. Raises UserError as `data_files`."""
    files = data_files(path, split=split)
    if files == [path]:
        return sha256_file(path)
    return digest([(file.relative_to(path).as_posix(), sha256_file(file)) for file in files])


def _of_folder(folder: Path, split: str | None) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        splits = [str(name) for name in _json_of(folder / "dataset_dict.json", "splits")]
        return _saved(folder / _chosen(splits, split, folder))
    if (folder / "state.json").is_file():
        _chosen([], split, folder)
        return _saved(folder)
    by_split: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
        if hidden or _NO_DATA.fullmatch(file.name) or (file.is_dir() and not file.is_symlink()):
            continue
        if file.is_dir():
            raise UserError(
                "the folder holds a link to another folder, whose files would be left out",
                where=str(file),
                remedy="copy the files to its place, or remove the link",
            )
        if not file.is_file():
            raise _no_file(file)
        if not file.name.lower().endswith(_DATA):
            raise UserError(
                "the folder holds a file of a format that irepo does not read",
                where=str(file),
                remedy=f"convert it to one of {FORMATS}, or move it elsewhere",
            )
        by_split.setdefault(_split_of(file, folder), []).append(file)
    if not by_split:
        raise UserError("the folder has no data files", where=str(folder), remedy=f"give a {FORMATS}")
    if split is None and len(by_split) == 1:
        return next(iter(by_split.values()))
    return by_split[_chosen(sorted(by_split), split, folder)]


def _no_file(path: Path) -> UserError:
    return UserError(
        "it is a link to nothing, a pipe or a device, not a file with data",
        where=str(path),
        remedy="name a file, or write the data into one first",
    )


def _split_of(file: Path, folder: Path) -> str:
    """The split that a file belongs to, by its name or its folder's; "" when they name none."""
    stem = file.name.partition(".")[0]
    shard = _SHARD.fullmatch(stem)
    if shard is not None and shard["split"] not in ("part", "data", "shard", "chunk"):
        return shard["split"]
    folders = [part for part in file.relative_to(folder).parent.parts if part != "data"]
    return next((name for name in (stem, *reversed(folders)) if _names_a_split(name)), "")


def _names_a_split(name: str) -> bool:
    """Whether the name of a file or folder has that of a split as a word: train_sft, squad-test, VAL.v2."""
    return any(word in _SPLITS for word in re.split(r"[-_. ]", name.lower()))


def _chosen(splits: list[str], split: str | None, folder: Path) -> str:
    """The split to read. Raises UserError when it is not one of `splits`, or none is named and there are several."""
    named = [name or "(none)" for name in splits]
    if split is None and len(splits) <= 1:
        return splits[0] if splits else ""
    if split is None:
        raise UserError(
            f"the folder has several splits: {', '.join(named)}",
            where=str(folder),
            remedy="name one (prompts.split=<split>), or give the path of its files",
        )
    if split not in splits:
        raise UserError(
            f"the folder has no split {split!r}; it has: {', '.join(named) or 'no splits'}",
            where=str(folder),
            remedy="name one of these, or leave the split out",
        )
    return split


def _saved(folder: Path) -> list[Path]:
    """The Arrow files of a folder that datasets' save_to_disk wrote."""
    entries = _json_of(folder / "state.json", "_data_files")
    files = [folder / str(entry.get("filename") if isinstance(entry, dict) else entry) for entry in entries]
    missing = [file for file in files if file.parent != folder or not file.is_file()]
    if missing or not files:
        raise UserError(
            f"the folder lacks a file that its state.json names: {missing[0].name if missing else 'none is named'}",
            where=str(folder),
            remedy="save the data set again: save_to_disk",
        )
    return files


def _json_of(path: Path, key: str) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"the file cannot be read: {error!r}", where=str(path), remedy="save the data set again: save_to_disk"
        ) from None
    return list(found) if isinstance(found, list) else []
