"""Addresses of files of a run that a browser can open: those of the server that shows the folder of runs."""

import os
from pathlib import Path
from urllib.parse import quote

#: Set by `make serve` for the runs it starts: the folder of runs, and the address at which the server shows it.
ROOT, ADDRESS = "IREPO_RUN_FILES", "IREPO_RUN_FILES_ADDRESS"


def address(path: Path) -> str:
    """The address of a file or folder: on the server if that shows it, otherwise on this machine (file://)."""
    root, shown = os.environ.get(ROOT), os.environ.get(ADDRESS)
    if root and shown and path.resolve().is_relative_to(Path(root).resolve()):
        below = path.resolve().relative_to(Path(root).resolve()).as_posix()
        return shown + quote(below) + ("/" if path.is_dir() else "")
    return path.resolve().as_uri()
