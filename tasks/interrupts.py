"""Ctrl-C: one line, exit code 130, and no process left behind, at any moment of a command.

While a command imports, an interrupt ends the process at once (`tasks/__init__.py`). Its work is wrapped in
`interruptible`: there, an interrupt is a KeyboardInterrupt that unwinds what is open. A second one, or ten seconds
without an end, leaves at once.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from tasks.processes import kill_groups

INTERRUPTED = 128 + signal.SIGINT
_STOPPED = "stopped"
_GRACE = 10.0  # seconds
_ENDINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def leave(line: str, code: int) -> NoReturn:
    """Print `line` on standard error and end this process and its groups, without waiting for threads.

    Threads may be in a request that takes a minute, and Prefect's would send their logs first.
    """
    kill_groups()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # another frame may be writing, or nobody reads
            stream.flush()
    with suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="replace"))
    os._exit(code)


@contextmanager
def interruptible() -> Iterator[None]:
    """In the main thread: Ctrl-C raises KeyboardInterrupt in the body, and ends this process when it leaves the body.

    The line that is printed is the KeyboardInterrupt's own text, if it has one.
    """
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _raise_once)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        leave(str(interrupt) or _STOPPED, INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, before)


def _raise_once(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, lambda _number, _frame: leave(_STOPPED, INTERRUPTED))
    timer = threading.Timer(_GRACE, leave, (_STOPPED, INTERRUPTED))
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


class Endings:
    """SIGTERM, SIGHUP and SIGQUIT raise SystemExit(128 + number) in the main thread, so that the body cleans up.

    While a process is being started (`deferred`), they wait until it is known and can be ended.
    """

    def __init__(self) -> None:
        self._pending: int | None = None
        self._deferred = False

    def install(self) -> None:
        for number in _ENDINGS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.end)

    def end(self, number: int, _frame: FrameType | None = None) -> None:
        """The handler."""
        if self._deferred:
            self._pending = number
        else:
            raise SystemExit(128 + number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._pending is not None:
            raise SystemExit(128 + self._pending)
