"""What the project logs during a run, where people look: run.log, the terminal beside the bars, and Prefect's log.

Everything logs to the logger `irepo`. run.log in the run folder gets all of it, the terminal its warnings, and
Prefect's log of the flow run or task run at hand all of it.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler
from rich.text import Text

from tasks.progress import console

LOG_FILE = "run.log"
log = logging.getLogger("irepo")

_FORMAT = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Log to `folder`/run.log, to the terminal and to Prefect inside this context. Inside another one it does nothing.

    Raises OSError when run.log cannot be written.
    """
    if any(isinstance(handler, _File) for handler in log.handlers):
        yield
        return
    handlers: list[logging.Handler] = [_File(folder / LOG_FILE), _Terminal(logging.WARNING), _Prefect(logging.INFO)]
    level, propagate = log.level, log.propagate
    for handler in handlers:
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # Prefect's console would show each line a second time
    try:
        log.info("process %d works on %s", os.getpid(), folder)
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        log.setLevel(level)
        log.propagate = propagate


class _File(logging.FileHandler):
    """Appends to run.log. A disk that is full must not turn each line into a traceback: the stage's error says it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(_FORMAT)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _Terminal(logging.Handler):
    """One line above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno < logging.ERROR else "red"
        message = "".join(mark for mark in record.getMessage() if mark == "\n" or mark.isprintable())
        line = Text.assemble((f"{record.levelname.lower()}:", style), " ", message)
        console.print(line, soft_wrap=True, highlight=False)


class _Prefect(APILogHandler):
    """The log of the flow run or task run in whose context the record was made; nothing outside of runs."""

    def emit(self, record: logging.LogRecord) -> None:
        if FlowRunContext.get() is not None or TaskRunContext.get() is not None:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        pass  # the server is away: run.log has the line
