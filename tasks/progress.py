"""A stage's progress: a bar that fills and stays; where there is no terminal, one line of text."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from storage.stage import Progress

console = Console()


@contextmanager
def progress_bar(stage: str, round_number: int) -> Iterator[Progress]:
    """A Progress that draws `round 2  generate  ━━━━ 512/1024 responses  0:03`."""
    label = f"round {round_number}  {stage:<9}"
    if not console.is_terminal:
        started = time.monotonic()
        last: list[str] = []

        def note(done: int, total: int, unit: str) -> None:
            last[:] = [f"{done}/{total} {unit}"]

        yield note
        console.print(f"{label} {last[0] if last else 'kept':<24} {time.monotonic() - started:6.1f} s", highlight=False)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"))
    with Bar(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(label, total=None, unit="")

        def draw(done: int, total: int, unit: str) -> None:
            bar.update(task, completed=done, total=total, unit=unit)

        yield draw
        if bar.tasks[0].total is None:
            bar.update(task, completed=1, total=1, unit="kept")
