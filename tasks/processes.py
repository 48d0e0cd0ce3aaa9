"""Child processes that never outlive their parent: each has its own process group, which ends as a whole.

The parent starts a child with `start_group` and ends it with `end_group`. A parent that is killed cannot end anything,
so the child first calls `die_with_parent`. PR_SET_PDEATHSIG is not used: it fires when the *thread* that forked ends,
and Prefect starts tasks from short-lived threads. POSIX only.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_STARTER = "IREPO_STARTER"  # environment variable: process id of the caller of start_group
_POLL = 0.5  # seconds

Stream = int | IO[Any] | None

#: Groups that this process has started and not ended.
_groups: set[int] = set()
os.register_at_fork(after_in_child=_groups.clear)


def start_group(
    command: Sequence[str],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` as the leader of its own process group (and session).

    `env` replaces the environment if given. The command should call `die_with_parent` first.
    """
    environment = dict(os.environ if env is None else env)
    environment[_STARTER] = str(os.getpid())
    process = subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, cwd=cwd, start_new_session=True
    )
    _groups.add(process.pid)
    return process


def end_group(process: subprocess.Popen[bytes], *, grace: float = 5.0) -> None:
    """End every process of the group that `start_group` made: SIGTERM, `grace` seconds, SIGKILL.

    May be called again, and after the leader has ended: processes that it left behind are killed too.
    """
    _signal(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace)
    _signal(process.pid, signal.SIGKILL)
    process.wait()
    _groups.discard(process.pid)


def kill_groups() -> None:
    """Kill every process of all groups that this process has started, at once: for a process that is about to leave."""
    for leader in list(_groups):
        _signal(leader, signal.SIGKILL)


def _signal(leader: int, number: signal.Signals) -> None:
    # macOS raises PermissionError, not ProcessLookupError, when only zombies are left in the group.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def die_with_parent() -> None:
    """In a child: kill this process's whole group within about half a second of its parent's death.

    "Parent" is the process's own parent and, in a descendant of `start_group`, the caller of `start_group`: torchrun
    gives each worker its own session, and a worker must not outlive the process that started torchrun either.
    """
    parent = os.getppid()
    starter = int(os.environ.get(_STARTER, parent))

    def wait_and_end() -> None:
        # An orphan is adopted by another process, so its parent's id changes.
        while os.getppid() == parent and _is_running(starter):
            time.sleep(_POLL)
        kill_group()

    start_watcher("die-with-parent", wait_and_end, end=kill_group)


def end_with_parent() -> None:
    """Kill this process within about half a second of its parent's death; its groups (`start_group`) follow it."""
    parent = os.getppid()

    def wait_and_end() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        kill_self()

    start_watcher("end-with-parent", wait_and_end)


def kill_self() -> None:
    """End this process at once. Its groups (`start_group`) follow it."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_group() -> None:
    """End this process and its whole group at once."""
    os.killpg(0, signal.SIGKILL)


def start_watcher(name: str, watch: Callable[[], None], *, end: Callable[[], None] = kill_self) -> None:
    """Run `watch` in a daemon thread called `name`. It may return.

    If it raises, nothing watches any more: the error goes to standard error in one line and `end` ends the process.
    """

    def run() -> None:
        try:
            watch()
        except BaseException as error:
            if sys.is_finalizing():  # the process ends already
                return
            # Not print: another thread may hold the lock of sys.stderr.
            with suppress(OSError):
                line = f"process {os.getpid()} ends: its watcher {name} failed: {type(error).__name__}: {error}"
                os.write(2, f"{' '.join(line.splitlines())}\n".encode(errors="replace"))
            end()

    threading.Thread(target=run, name=name, daemon=True).start()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
