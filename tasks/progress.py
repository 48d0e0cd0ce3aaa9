"""A stage's progress: a bar on a terminal, elsewhere a line of text every minute, and an artifact in the UI."""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from storage.stage import Progress

console = Console()
LINE_SECONDS = 60.0  # between two lines without a terminal
log = logging.getLogger("irepo")


@contextmanager
def progress_bar(stage: str, round_number: int, run: str = "") -> Iterator[Progress]:
    """A Progress that draws `round 2  generate  ━━━━ 512/1024 responses  0:03`.

    run: the run's name. Its progress in the UI is the artifact `<run>-progress`.
    """
    label = f"round {round_number}  {stage:<19}"
    artifact = _Artifact(f"{stage} of round {round_number}", artifact_key(f"{run} progress"))
    if not console.is_terminal:
        started = printed = time.monotonic()
        last = "kept"

        def line() -> None:
            console.print(f"{label} {last:<24} {time.monotonic() - started:6.1f} s", highlight=False)

        def note(done: int, total: int, unit: str) -> None:
            nonlocal last, printed
            last = f"{done}/{total} {unit}"
            artifact.show(done, total, unit)
            if done < total and time.monotonic() - printed >= LINE_SECONDS:
                printed = time.monotonic()
                line()

        yield note
        artifact.finish()
        line()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"))
    with Bar(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(label, total=None, unit="")

        def draw(done: int, total: int, unit: str) -> None:
            bar.update(task, completed=done, total=total, unit=unit)
            artifact.show(done, total, unit)

        yield draw
        artifact.finish()
        if bar.tasks[0].total is None:
            bar.update(task, completed=1, total=1, unit="kept")


def artifact_key(name: str) -> str:
    """A name as the key of an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class _Artifact:
    """The progress artifact of a task run: created once the stage has run for a while, updated every few seconds.

    A thread writes the newest figures, so that a stage never waits for a slow or unreachable server.
    """

    _SECONDS = 2.0
    _PATIENCE = 5.0

    def __init__(self, title: str, key: str) -> None:
        self._title = title
        self._key = key
        self._last = time.monotonic()
        self._off = TaskRunContext.get() is None
        self._news: SimpleQueue[tuple[float, str] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def show(self, done: int, total: int, unit: str) -> None:
        if self._off or not total or time.monotonic() - self._last < self._SECONDS:
            return
        if self._thread is None:
            self._thread = Thread(target=copy_context().run, args=(self._write,), name="progress", daemon=True)
            self._thread.start()
        self._news.put((100 * done / total, f"{self._title}: {done} of {total} {unit}"))
        self._last = time.monotonic()

    def finish(self) -> None:
        if self._thread is not None:
            self._news.put((100.0, f"{self._title}: done"))
            self._news.put(None)
            self._thread.join(self._PATIENCE)

    def _write(self) -> None:
        """Write the newest figures until None arrives. After the first failure, log it once and send nothing more."""
        artifact: UUID | None = None
        news = self._news.get()
        while news is not None:
            percent, description = news
            try:
                if artifact is None:
                    artifact = cast(UUID, create_progress_artifact(percent, key=self._key, description=description))
                else:
                    update_progress_artifact(artifact, percent, description=description)
            except Exception as error:
                self._off = True
                log.warning("progress is no longer shown in the UI: %s", error)
                return
            news = self._news.get()
            while news is not None and not self._news.empty():
                later = self._news.get()
                if later is None:
                    self._news.put(None)
                    break
                news = later
