"""Landlock: a process gives up the right to files, for itself and its children (Linux 5.13 or newer, no root needed).

The kernel's page: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # numbers of the system calls, the same on every architecture
_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES = 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ALL = (1 << 13) - 1  # every right of the first version
_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE  # those that a file has

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def available() -> bool:
    """Whether this kernel has Landlock and lets this process use it."""
    return bool(_libc.syscall(_CREATE, None, 0, 1) >= 1)


def restrict_files(*, read: Sequence[str], write: Sequence[str]) -> None:
    """From now on this process reads files below `read`, reads and writes those below `write`, and opens no other.

    Paths that do not exist are left out. Raises OSError when the kernel refuses.
    """
    handled = _Ruleset(_ALL)
    ruleset = _call(_CREATE, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    for paths, rights in ((read, _READ), (write, _ALL)):
        for path in paths:
            if not Path(path).exists():
                continue
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = rights if Path(path).is_dir() else rights & _FILE
            _call(_ADD, ruleset, _PATH_BENEATH, ctypes.byref(_PathRule(allowed, parent)), 0)
            os.close(parent)
    if _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    _call(_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
