"""The four Prefect tasks (generate, label, train, evaluate) and, below them, the rooms that do the work."""

import os
import sys
from importlib import import_module


def _leave(_number: int, _frame: object) -> None:
    """Ctrl-C while a command imports: one line, code 130, no process left. `tasks.interrupts` takes over later."""
    kill_groups = getattr(sys.modules.get("tasks.processes"), "kill_groups", None)
    if kill_groups is not None:
        kill_groups()
    os.write(2, b"stopped\n")
    os._exit(130)


if sys.argv[:1] == ["-m"]:  # as long as `python -m <module>` looks for its module
    # The built-in part of `signal`: it imports nothing, so there is no time in which an interrupt shows a traceback.
    _signal = import_module("_signal")
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:  # a background job ignores it
        _signal.signal(_signal.SIGINT, _leave)
