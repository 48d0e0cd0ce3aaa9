"""One clear error, instead of a traceback, when a disk is full, or a path may not be written or cannot exist."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_PATHS = {
    errno.ENAMETOOLONG: "use a shorter one: most file systems allow 255 bytes for each part of a path",
    errno.ELOOP: "correct the symbolic links, which lead back to themselves",
}
#: safetensors reports the system's error as text.
_NUMBER = re.compile(r"(?:os error|\[Errno) (\d+)")


@contextmanager
def disk_faults(folder: Path) -> Iterator[None]:
    """Turn a failed write by any library into a UserError that names `folder` and its free space."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        explained = _explain(error, folder)
        if explained is None:
            raise
        raise explained from error


def discard_output() -> None:
    """Drop what standard output still holds: Python writes it at exit, which would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain_at_exit(error: OSError) -> UserError | None:
    """For a command that ends with `error`: what its paths or its disk have to do with it; None if nothing."""
    place = _place(error)
    if place is not None and error.errno in _PATHS:
        return UserError(f"this path cannot be used: {error.strerror}", where=place, remedy=_PATHS[error.errno])
    if place is None and error.errno in _FULL:
        discard_output()
        return UserError(
            f"the output cannot be written: {error.strerror}",
            where="standard output",
            remedy="send it to a disk that has space, then give the same command again",
        )
    if place is not None and error.errno in _FORBIDDEN:
        return UserError(
            f"this path may not be used: {error.strerror}",
            where=place,
            remedy="fix its permissions or mount it writable, then give the same command again",
        )
    return _explain(error, Path(place)) if place is not None else None


def _explain(error: BaseException, folder: Path) -> UserError | None:
    number = _errno(error)
    if number is None:
        return None
    if number in _FULL:
        return UserError(
            f"the disk is full: {_free(folder)}; finished work is kept",
            where=str(_place(error) or folder),
            remedy="free some space, then repeat the same command (or retry the run)",
        )
    if number in _FORBIDDEN:
        return UserError(
            f"the file system does not allow writing: {os.strerror(number)}",
            where=str(_place(error) or folder),
            remedy="fix its permissions or mount it writable, then give the same command again (or retry the run)",
        )
    return None


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    number = _NUMBER.search(str(error))
    return int(number[1]) if number else None


def _place(error: BaseException) -> str | None:
    name = getattr(error, "filename", None)
    return os.fsdecode(name) if isinstance(name, str | bytes) else None


def _free(folder: Path) -> str:
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    return f"{shutil.disk_usage(existing).free / 2**20:.0f} MiB free"
