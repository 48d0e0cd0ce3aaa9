"""Terminal output of `storage.explain` and `storage.diff`: wrapped lines with the branches of a tree, short values."""

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from storage.disk_errors import discard_output, explain_at_exit
from storage.errors import UserError
from storage.plain import PlainConsole

_GLUE = "\N{NO-BREAK SPACE}"  # textwrap does not break lines here


def leave(body: Callable[[], int]) -> None:
    """End the process with the exit code of `body`; on a UserError, print it on stderr and exit with 2."""
    try:
        code = body()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        discard_output()
        code = 1
    except OSError as error:
        explained = explain_at_exit(error)
        if explained is None:
            raise
        print(f"error: {explained}", file=sys.stderr)
        code = 2
    raise SystemExit(code)


class Page:
    """Prints to the console's width: wrapped lines are indented below the first word, and paths are not broken."""

    def __init__(self) -> None:
        self.console = PlainConsole()

    def line(self, text: str = "", *, style: str = "", guide: str = "", hang: str | None = None) -> None:
        """`text` after `guide` (the branches of a tree); wrapped lines begin with `hang`, by default `guide`."""
        hang = guide if hang is None else hang
        width = max(self.console.width - max(len(guide), len(hang)), 24)
        for i, part in enumerate(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]):
            printed = Text.assemble((hang if i else guide, "dim"), (part.replace(_GLUE, " "), style))
            printed.rstrip()
            self.console.print(printed, soft_wrap=True)

    def field(self, label: str, value: str | Iterable[str], *, style: str = "", guide: str = "  ") -> None:
        """`label` and `value` in two columns; the items of a list are separated by commas and not broken."""
        if not isinstance(value, str):
            value = ", ".join(item.replace(" ", _GLUE) for item in value)
        self.line(value, style=style, guide=f"{guide}{label:<9} ", hang=f"{guide}{'':<10}")

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.rule(Text(text, "bold"), align="left", characters="─", style="dim")


def shown(path: Path) -> str:
    """A path as one would type it here: relative if it lies below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def brief(value: Any, limit: int = 60, *, digits: int = 6) -> str:
    """A value in at most `limit` characters: floats with `digits` digits, the rest as JSON, text without quotes."""
    if isinstance(value, float):
        text = f"{value:.{digits}g}"
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def change(one: Any, other: Any, limit: int = 200) -> str:
    """`one -> other`, each in at most `limit` characters."""
    texts = brief(one, limit), brief(other, limit)
    if texts[0] == texts[1]:  # floats that differ beyond six digits, or 1 and "1"
        texts = repr(one)[:limit], repr(other)[:limit]
    return " -> ".join(texts)


def amounts(values: Mapping[str, Any]) -> list[str]:
    """`name value` for each item."""
    return [f"{name} {brief(value)}" for name, value in values.items()]


def size(count: int) -> str:
    """A number of bytes in bytes, kB, MB or GB (1 kB = 1000 bytes)."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.4g} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def counted(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
