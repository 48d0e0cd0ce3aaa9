"""Text as it may be shown on a terminal: never interpreted, never hidden."""

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

#: Controls (C0 without line feed and tab, DEL, C1), characters that reorder text, line separators, lone surrogates.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)


def plain(text: str) -> str:
    """`text` without characters that rewrite a terminal (escape sequences) or reorder what is read (bidi overrides)."""
    return _HARMFUL.sub("", text)


class PlainConsole(Console):
    """A console that shows every text as it is: nothing in it is markup, and what `plain` leaves out is left out.

    Styles are given as `style=` and as rich's Text.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's; the control codes of its own progress bars stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=plain(segment.text))
