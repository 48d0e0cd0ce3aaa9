"""Which processes of a run or of the cluster are alive: each carries a mark in the environment that it began with."""

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos.victim import MARK as MARK

GRACE = 15.0  # seconds within which processes must end
#: Parts of the command lines of a worker of ours, and of an engine that it started.
_WORKERS, _ENGINES = (b"ray::EngineActor",), (b"tasks.generation.vllm_worker",)


def marked(mark: str) -> Iterator[tuple[int, bytes]]:
    """Process id and command line of every living process with `mark`: a zombie has neither environment nor files.

    A process that changes its title may overwrite the environment that others see; its log still is in the cluster's
    folder, whose name is the cluster's mark.
    """
    wanted = f"{MARK}={mark}\0".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes() or _writes_below(folder, mark):
                yield int(folder.name), (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile


def _writes_below(process: Path, name: str) -> bool:
    return any(f"/{name}/" in str((process / "fd" / stream).readlink()) for stream in "12")


def workers(mark: str) -> list[int]:
    """Processes of the cluster that are workers of a run."""
    return [pid for pid, command in marked(mark) if any(part in command for part in _WORKERS)]


def of_runs(mark: str) -> list[int]:
    """Processes of the cluster that must end with a run: its workers, and their engines."""
    return [pid for pid, command in marked(mark) if any(part in command for part in (*_WORKERS, *_ENGINES))]


def left(*marks: str, of_cluster: str) -> list[str]:
    """Processes of runs that have not ended within GRACE, as "pid command"."""
    deadline = time.monotonic() + GRACE
    while True:
        found = {pid: command for mark in marks for pid, command in marked(mark)}
        found |= {pid: command for pid, command in marked(of_cluster) if pid in of_runs(of_cluster)}
        if not found or time.monotonic() > deadline:
            return [
                f"{pid} {command.replace(bytes(1), b' ').decode(errors='replace')}" for pid, command in found.items()
            ]
        time.sleep(0.1)
