"""Child processes that never outlive what started them: one process group each, ended as a whole.

The parent starts a child with `start_group` and ends it with `end_group`. For the case where the parent is killed and
can end nothing, the child first calls `die_with_parent`. PR_SET_PDEATHSIG is not used: it fires when the *thread*
that forked ends, and Prefect starts tasks from short-lived threads. POSIX only.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_STARTER = "IREPO_STARTER"  # environment variable: process id of who called start_group
_POLL = 0.5  # seconds

Stream = int | IO[Any] | None


def start_group(
    command: Sequence[str],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` as the leader of a process group (and session) of its own.

    `env` replaces the environment when given. What the command runs should call `die_with_parent` first.
    """
    environment = dict(os.environ if env is None else env)
    environment[_STARTER] = str(os.getpid())
    return subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, cwd=cwd, start_new_session=True
    )


def end_group(process: subprocess.Popen[bytes], *, grace: float = 5.0) -> None:
    """End every process of the group that `start_group` made: SIGTERM, `grace` seconds, SIGKILL.

    Safe to call again, and after the leader has ended: what it left behind is killed too.
    """
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # macOS answers PermissionError, not ProcessLookupError, when only zombies are left in the group.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def die_with_parent() -> None:
    """In a child: kill this process's whole group within about half a second of its parent's death.

    "Parent" is the process's own parent and, if it descends from a `start_group`, whoever called that: torchrun gives
    each worker a session of its own, and a worker must not outlive the launcher two levels up either.
    """
    parent = os.getppid()
    starter = int(os.environ.get(_STARTER, parent))

    def watch() -> None:
        # An orphan is adopted by another process, so its parent's id changes.
        while os.getppid() == parent and _is_running(starter):
            time.sleep(_POLL)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


def end_with_parent() -> None:
    """Kill this process within about half a second of its parent's death; its groups (`start_group`) follow it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
