"""Observe a run from outside: its folder shows the stage, /proc the processes."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.chaos.victim import MARK
from conf.compose import compose_config
from flows.round import list_stages
from storage.manifest import MANIFEST
from tasks.report import stage_title

START, BETWEEN = "start-up", "between stages"
#: Part of a command line -> role of the process.
_ROLES = {
    "tasks.generation.vllm_worker": "engine",
    "tasks.training.launch": "training",
    "flows.operations.temporary_server": "temporary server",
    "prefect.server": "temporary server",
    "flows.iterate": "flow",
}


class Stages:
    """The stages of a run in the order in which they are done, as (name below the round, folder).

    words: those of the command. aimed: names of the stages that take long enough to be a target. The others (prompts,
    gate) take milliseconds and are hit only by chance.
    """

    def __init__(self, run: Path, words: Sequence[str], rounds: int) -> None:
        self.run = run
        specs = list_stages(compose_config(words))
        self.aimed = tuple(dict.fromkeys(stage_title(spec) for spec in specs if spec.task is not None))
        named = [(stage_title(spec), spec.folder.relative_to(specs[0].folder.parent)) for spec in specs]
        first = [(name, below) for name, below in named if below.parts[0] == "round-01"]
        self.folders = [(name, run / below) for name, below in named if (name, below) not in first]
        for number in range(1, rounds + 1):
            round_ = run / f"round-{number:02d}"
            self.folders += [(name, round_.joinpath(*below.parts[1:])) for name, below in first]
            self.folders.append(("gate", round_ / "gate"))

    def done(self, index: int) -> bool:
        return (self.folders[index][1] / MANIFEST).exists()

    def running(self, since: int) -> int | None:
        """Index of the stage that started after `since` (ns) and has no manifest yet; None if there is none."""
        for index in reversed(range(len(self.folders))):
            if _changed(self.folders[index][1] / "spec.yaml") >= since and not self.done(index):
                return index
        return None

    def now(self, since: int) -> str:
        """Kind of the running stage, or `START` (no stage has started), or `BETWEEN`."""
        index = self.running(since)
        if index is not None:
            return self.folders[index][0]
        begun = any(_changed(folder / "spec.yaml") >= since for _, folder in self.folders)
        return BETWEEN if begun else START


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def processes(mark: str) -> dict[int, str]:
    """Process id -> role of every living process that carries `mark` in its environment."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            role = role_of(int(entry.name), mark)
            if role is not None:
                found[int(entry.name)] = role
    return found


def role_of(pid: int, mark: str) -> str | None:
    """Role of process `pid`; None if it is gone, a zombie, or not ours."""
    folder = Path("/proc") / str(pid)
    try:
        # A zombie's environment is empty.
        if f"{MARK}={mark}\0".encode() not in (folder / "environ").read_bytes():
            return None
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    return next((role for part, role in _ROLES.items() if part in command), "other")


def kill(pids: Iterator[int] | list[int], mark: str) -> list[int]:
    """Send SIGKILL to those of `pids` that are still ours, and return them."""
    killed = []
    for pid in pids:
        if role_of(pid, mark) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


class Ledger:
    """Watches the published files of a run. Writing one of them again is an error."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._seen: dict[Path, tuple[int, int]] = {}
        self.rewritten: list[str] = []

    def look(self) -> None:
        """Record the files published so far (in a manifest, or with the sidecar of a part), and those that changed."""
        for path in _published(self._run):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            identity = (state.st_ino, state.st_mtime_ns)
            if self._seen.setdefault(path, identity) != identity:
                self.rewritten.append(path.relative_to(self._run).as_posix())
                self._seen[path] = identity
        for path in [path for path in self._seen if not path.exists()]:
            del self._seen[path]
            if not (
                path.name.startswith("part-") and (path.parent / MANIFEST).exists()
            ):  # a finished stage removes its parts
                self.rewritten.append(f"{path.relative_to(self._run).as_posix()} (gone)")

    def __len__(self) -> int:
        return len(self._seen)


def _published(run: Path) -> Iterator[Path]:
    for manifest in run.rglob(MANIFEST):
        with suppress(OSError, ValueError):
            entries = json.loads(manifest.read_text(encoding="utf-8"))["files"]
            yield manifest
            yield from (manifest.parent / entry["path"] for entry in entries)
    for sidecar in run.rglob(".*.part.json"):
        yield sidecar.with_name(sidecar.name.removeprefix(".").removesuffix(".part.json"))


def steps_undone(train: Path) -> int:
    """Optimizer steps of an interrupted train stage after its newest checkpoint."""
    metrics = train / "metrics.jsonl"
    if (train / MANIFEST).exists() or not metrics.exists():
        return 0
    steps = [int(path.name.removeprefix("step-")) for path in (train / "checkpoints").glob("step-*")]
    return max(0, metrics.read_bytes().count(b"\n") - max(steps, default=0))
