"""One owner of a run folder at a time. The lock is the kernel's: it ends with the process, however that ends."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import UserError
from storage.manifest import now

OWNER = ".owner"

#: Folders that this process holds: it may ask for them again.
_held: set[Path] = set()


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, which may hold it already.

    Raises UserError, naming the owner, while another process holds it, and where the folder cannot be written or
    locked. A dead owner's lock is free at once; the file stays behind, its text says who held the folder last. Locks
    reach other hosts only where the file system passes them on (NFS 4 does).
    """
    place = folder.resolve()
    if place in _held:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(error, folder) from None
    try:
        _lock(handle, folder)
        _sign(handle, folder)
        _held.add(place)
        try:
            yield
        finally:
            _held.discard(place)
    finally:
        os.close(handle)


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
            f"another run works in this folder: {owner or 'it has just started'}",
            where=str(folder),
            remedy="wait for it or stop it, or choose another run: name=<other>",
        ) from None
    except OSError as error:
        raise UserError(
            f"the file system of the run folder has no locks: {error.strerror}",
            where=str(folder),
            remedy="keep runs on a file system that has them (a local disk, NFS 4): runs=<folder>",
        ) from None
