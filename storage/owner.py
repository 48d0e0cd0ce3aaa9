"""One owner per run folder. The kernel holds the lock: it ends with the process, however the process ends."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import UserError
from storage.manifest import now

OWNER = ".owner"

#: Folders that this process holds; it may lock them again.
_held: set[Path] = set()


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, which may hold it already.

    Raises UserError, naming the owner, while another process holds it, and when the folder cannot be written or
    locked. The lock of a dead owner is released at once; the file stays, and its text names the last owner. Other
    hosts see the lock only if the file system shares locks (NFS 4 does).
    """
    place = folder.resolve()
    if place in _held:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_a_link(folder) from None
        raise _unwritable(error, folder) from None
    try:
        if os.fstat(handle).st_nlink > 1:
            raise _is_a_link(folder)
        _lock(handle, folder)
        _sign(handle, folder)
        _held.add(place)
        try:
            yield
        finally:
            _held.discard(place)
    finally:
        os.close(handle)


def is_owned(folder: Path) -> bool:
    """Whether another process, of this host or of one that shares its locks, holds `folder`."""
    if folder.resolve() in _held:
        return False
    try:
        handle = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _is_a_link(folder: Path) -> UserError:
    return UserError(
        "the file that names a run's owner is a link: writing it would change another file",
        where=str(folder / OWNER),
        remedy="remove it, then give the same command again",
    )


def _sign(handle: int, folder: Path) -> None:
    try:
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {now()}\n".encode())
    except OSError as error:
        raise _unwritable(error, folder) from None


def _unwritable(error: OSError, folder: Path) -> UserError:
    return UserError(
        f"the run folder cannot be written: {error.strerror}",
        where=str(folder),
        remedy="free space, mount the disk, fix the folder's permissions, or keep runs elsewhere: runs=<folder>",
    )


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = (folder / OWNER).read_text(encoding="utf-8").strip()
        raise UserError(
            f"another run uses this folder: {owner or 'it has just started'}",
            where=str(folder),
            remedy="wait for it or stop it, or choose another run: name=<other>",
        ) from None
    except OSError as error:
        raise UserError(
            f"the file system of the run folder does not support locks: {error.strerror}",
            where=str(folder),
            remedy="keep runs on a file system with locks (a local disk, NFS 4): runs=<folder>",
        ) from None
