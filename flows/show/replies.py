"""Replies as they are sampled: one as a stream of text, two side by side."""

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.columns import Columns
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from flows.show.terminal import console
from storage.plain import plain


def show_replies(names: Sequence[str], streams: Sequence[Iterator[str]]) -> list[str]:
    """Print the replies while they are sampled; returns their texts. Streams take turns, so that none waits."""
    if len(streams) == 1:
        return [_stream(streams[0])]
    if not console.is_terminal:
        texts = ["".join(stream) for stream in streams]
        for name, text in zip(names, texts, strict=True):
            console.print(f"{name}: {text}", soft_wrap=True)
        return texts
    texts = ["" for _ in streams]
    with Live(console=console, refresh_per_second=12, vertical_overflow="visible") as live:
        for pieces in zip_longest(*streams, fillvalue=""):
            texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
            width = max(20, console.width // len(texts) - 1)
            panels = [
                Panel(Text(plain(text)), title=name, width=width) for name, text in zip(names, texts, strict=True)
            ]
            live.update(Columns(panels))
    return texts


def _stream(stream: Iterator[str]) -> str:
    text = ""
    for piece in stream:
        text += piece
        sys.stdout.write(plain(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return text
