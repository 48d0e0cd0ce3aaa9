"""Digests, and atomic writes: a file is complete under its name, or it does not exist."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

_CHUNK = 1 << 20
_LARGE = 1 << 28  # bytes of files that are hashed several at a time
_THREADS = min(4, os.cpu_count() or 1)

T = TypeVar("T")
R = TypeVar("R")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Raises ValueError on NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def parse_yaml(text: str) -> Any:
    """The plain data of a YAML text; raises yaml.YAMLError. Uses libyaml, ten times as fast, if PyYAML has it."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def yaml_text(value: Any) -> str:
    """Plain data as YAML, keys in their order."""
    text: str = yaml.dump(value, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    return text


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def for_files(work: Callable[[T], R], items: Sequence[T], *, total: int) -> list[R]:
    """`work` of each item, in order; several at a time when they have many bytes, since hashing frees Python's lock.

    total: bytes of all items. Raises the error of the first item that has one.
    """
    if total < _LARGE or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, items))


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside `path`; on a clean exit sync it and rename it to `path`.

    A reader sees the old file or the new one, never a part. If the body raises, `path` is untouched. Nothing is written
    through a link: a link at `path` is replaced, and nobody can know the temporary name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def publish_file(path: Path, write: Callable[[Path], None]) -> None:
    """Atomically write `path`: `write` fills a temporary file, as in `publishing`."""
    with publishing(path) as temporary:
        write(temporary)


def publish_text(path: Path, text: str, *, private: bool = False) -> None:
    """Atomically write `text` (UTF-8) to `path`. private: only this user may read it, as what holds configuration."""
    publish_file(path, lambda temporary: _write_text(temporary, text, private=private))


def _write_text(path: Path, text: str, *, private: bool) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)


def publish_link(path: Path, target: Path) -> None:
    """Atomically make `path` a symbolic link to `target`, relative, so that both may move together."""
    temporary = _temporary(path)
    temporary.symlink_to(os.path.relpath(target, path.parent))
    temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on a clean exit sync every file in it and rename it to `folder`.

    An existing `folder` is replaced. If the body raises, `folder` is untouched and the temporary folder is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(folder)
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_dir():
                sync_folder(path)
                continue
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)


def sweep_temporaries(folder: Path) -> None:
    """Remove temporary files and folders that a killed process left directly inside `folder`."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
