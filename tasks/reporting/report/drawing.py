"""Small SVG charts: scales, axes, lines with intervals, direct labels. No library, no script.

A chart is 360 units wide (SMALL: 270), about the width of a phone; wider pages put several in a row. Colours are
classes, so that one style sheet serves light and dark mode: c0 to c5 are distinct for colour-blind readers, and each
has its own marker.
"""

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tasks.reporting.report.lettering import ems, size
from tasks.reporting.report.lettering import width as text_width

WIDTH, SMALL = 360, 270
COLOURS = 6
_LONGEST = 17  # characters of a label
_NAMES = 112.0  # widest margin for the names of lines, right of a plot
INSET = 3.0  # of text from the edge: glyphs such as J may reach beyond their start
_APART = 13.0  # least distance of two labels' lines
_TOP, _BOTTOM, _LEFT = 50.0, 34.0, 42.0

Point = tuple[float, float]


def text(value: object) -> str:
    """Text escaped for elements and attributes; characters that XML forbids become U+FFFD."""
    return html.escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", str(value)))


def short(label: str, most: int = _LONGEST) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def number(value: float) -> str:
    """A coordinate: two decimals at most."""
    return f"{round(value, 2) + 0.0:g}"  # + 0.0: no negative zero


@dataclass(frozen=True)
class Figure:
    """A finished chart. body: the content of its svg element. says: the same in words, for screen readers.

    caption: how the chart is computed; shown below it on the page.
    """

    name: str
    title: str
    says: str
    height: float
    body: str
    caption: str
    width: int = WIDTH

    def svg(self, style: str | None = None) -> str:
        """The svg element; with `style` (CSS), as a stand-alone file."""
        alone = style is not None
        ground = f'<style>{style}</style><rect width="100%" height="100%" class="paper"/>' if alone else ""
        space = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
        size = f' width="{self.width * 2}" height="{number(self.height * 2)}"' if alone else ""
        marks = f"{self.name}-title {self.name}-says"
        return (
            f'<svg{space} class="chart" viewBox="0 0 {self.width} {number(self.height)}"{size} role="img" '
            f'aria-labelledby="{marks}"><title id="{self.name}-title">{text(self.title)}</title>'
            f'<desc id="{self.name}-says">{text(self.says)}</desc>{ground}{self.body}</svg>'
        )


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that cover low to high, in steps of 1, 2 or 5 times a power of ten."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = min((times * power for times in (1, 2, 5, 10)), key=lambda step: abs(span / step - count))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """Maps values low..high to start..end, in units of the chart; with low equal to high, to the middle."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def lettering(words: str, classes: str = "", room: float = math.inf) -> str:
    """Attributes that give a text element its width, whatever the font: at most `room` units."""
    natural = ems(words, classes)
    fitted = min(natural, room / size(classes))
    return f' textLength="{number(fitted)}em" lengthAdjust="spacingAndGlyphs"' if natural else ""


def label(
    x: float, y: float, words: object, classes: str = "", anchor: str = "start", *, room: float = math.inf
) -> str:
    """A text element that is at most `room` units wide."""
    placed = "" if anchor == "start" else f' text-anchor="{anchor}"'
    fitted = lettering(str(words), classes, room)
    return f'<text x="{number(x)}" y="{number(y)}" class="{classes}"{placed}{fitted}>{text(words)}</text>'


def segment(one: Point, other: Point, classes: str) -> str:
    (x1, y1), (x2, y2) = one, other
    return f'<path class="{classes}" d="M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}"/>'


def rectangle(x: float, y: float, width: float, height: float, classes: str, tip: str = "") -> str:
    inner = f"<title>{text(tip)}</title>" if tip else ""
    return (
        f'<rect x="{number(x)}" y="{number(y)}" width="{number(max(width, 0))}" height="{number(max(height, 0))}" '
        f'class="{classes}">{inner}</rect>'
    )


def marker(x: float, y: float, series: int, tip: str, *, hollow: bool = False) -> str:
    """A data point in the colour and shape of its series; hollow for rounds that were rolled back."""
    left, right, up, down = (number(value) for value in (x - 3.6, x + 3.6, y - 3.6, y + 3.6))
    middle, level = number(x), number(y)
    path = (
        f"M{left} {level}a3.6 3.6 0 1 1 7.2 0a3.6 3.6 0 1 1 -7.2 0z",  # circle
        f"M{number(x - 2.9)} {number(y - 2.9)}h5.8v5.8h-5.8z",  # square
        f"M{middle} {up}L{right} {down}H{left}z",  # triangle
        f"M{middle} {up}L{right} {level}L{middle} {down}L{left} {level}z",  # diamond
        f"M{middle} {down}L{left} {up}H{right}z",  # triangle, pointing down
        f"M{left} {number(y - 1.5)}h7.2v3h-7.2z",  # bar
    )[series % COLOURS]
    classes = f"mark c{series % COLOURS}{' hollow' if hollow else ''}"
    return f'<path d="{path}" class="{classes}"><title>{text(tip)}</title></path>'


def apart(places: Sequence[float], low: float, high: float) -> list[float]:
    """The places, moved so that each is at least `_APART` from the next, inside low..high where they fit."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    above = low - _APART
    for i in order:
        above = moved[i] = max(moved[i], above + _APART)
    below = high + _APART
    for i in reversed(order):
        below = moved[i] = min(moved[i], below - _APART)
    return moved


def header(title: str, unit: str, room: float = WIDTH) -> str:
    """Title and unit above a plot, in `room` units."""
    room -= 2 * INSET
    return label(INSET, 15, title, "head", room=room) + label(INSET, 31, unit, "unit", room=room)


def wrapped(widths: Sequence[float], left: float, right: float, line: float) -> list[Point]:
    """Positions of items of these widths: in rows from `left` to `right`, each row `line` below the one before."""
    places: list[Point] = []
    x, y = left, 0.0
    for item in widths:
        if x > left and x + item > right:
            x, y = left, y + line
        places.append((x, y))
        x += item
    return places


class Plot:
    """A chart with two axes that end at round numbers."""

    def __init__(
        self, title: str, unit: str, x: tuple[float, float], y: tuple[float, float], *, names: Iterable[str] = (),
        width: int = WIDTH, height: float = 226, x_title: str = "round", x_ticks: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        """x, y: ranges to show; the y axis grows to its ticks. names: labels to the right of the plot."""
        self.width, self.height = width, height
        self.title = title
        longest = max((text_width(short(name), "name") for name in names), default=0.0)
        right = width - min(longest + 10, _NAMES)
        marks = ticks(*y, count=2 if width == SMALL else 4)
        self.y = Scale(marks[0], marks[-1], height - _BOTTOM, _TOP)
        across = ticks(*x) if x_ticks is None else list(x_ticks)
        self.x = Scale(*(x if x_ticks is not None else (min(x[0], across[0]), x[1])), _LEFT + 8, right - 8)
        self.parts = [header(title, unit, width)]
        for mark in marks:
            at = self.y.at(mark)
            self.parts.append(segment((_LEFT, at), (right, at), "grid"))
            self.parts.append(label(_LEFT - 6, at + 3.8, f"{mark:g}", "tick", "end", room=_LEFT - 6))
        for mark in across:
            if x[0] <= mark <= x[1]:
                self.parts.append(label(self.x.at(mark), height - _BOTTOM + 15, f"{mark:g}", "tick", "middle"))
        self.parts.append(label(right, height - 4, x_title, "unit", "end", room=right))
        self._right = right

    def line(self, points: Sequence[Point], series: int, *, thin: bool = False, shift: float = 0.0) -> None:
        """shift: units to the right, so that series with equal values stay visible."""
        if len(points) > 1:
            path = "L".join(f"{number(self.x.at(x) + shift)} {number(self.y.at(y))}" for x, y in points)
            dash = " dashed" if series >= COLOURS else ""
            self.parts.append(f'<path class="line{" thin" if thin else ""}{dash} c{series % COLOURS}" d="M{path}"/>')

    def band(self, lows: Sequence[Point], highs: Sequence[Point], series: int) -> None:
        path = "L".join(f"{number(self.x.at(x))} {number(self.y.at(y))}" for x, y in [*highs, *reversed(lows)])
        self.parts.append(f'<path class="band c{series % COLOURS}" d="M{path}z"/>')

    def whisker(self, x: float, low: float, high: float, series: int, shift: float = 0.0) -> None:
        at = self.x.at(x) + shift
        self.parts.append(segment((at, self.y.at(low)), (at, self.y.at(high)), f"whisker c{series % COLOURS}"))

    def lying_whisker(self, low: float, high: float, y: float, series: int) -> None:
        ends = ((self.x.at(low), self.y.at(y)), (self.x.at(high), self.y.at(y)))
        self.parts.append(segment(*ends, f"whisker c{series % COLOURS}"))

    def dot(self, x: float, y: float, series: int, tip: str, *, shift: float = 0.0, hollow: bool = False) -> None:
        self.parts.append(marker(self.x.at(x) + shift, self.y.at(y), series, tip, hollow=hollow))

    def reference(self, y: float, words: str = "") -> None:
        """A horizontal line to compare with, across the plot."""
        if self.y.low <= y <= self.y.high:
            self.parts.append(segment((_LEFT, self.y.at(y)), (self._right, self.y.at(y)), "reference"))
            self.parts.append(label(_LEFT + 3, self.y.at(y) - 4, words, "note"))

    def upright(self, x: float, words: str = "") -> None:
        at = self.x.at(x)
        self.parts.append(segment((at, _TOP), (at, self.height - _BOTTOM), "reference"))
        self.parts.append(label(at + 3, _TOP - 3, words, "note", room=self.width - at - 3))

    def names(self, ends: Sequence[tuple[str, float, int]]) -> None:
        """Write the names of lines to the right of their ends, without overlap. ends: (name, last y, series)."""
        places = apart([self.y.at(y) for _, y, _ in ends], _TOP + 2, self.height - _BOTTOM)
        left = self._right + 5
        for (name, _, series), place in zip(ends, places, strict=True):
            classes = f"name c{series % COLOURS}"
            self.parts.append(label(left, place + 3.8, short(name), classes, room=self.width - left))

    def figure(self, name: str, says: str, caption: str) -> Figure:
        return Figure(name, self.title, says, self.height, "".join(self.parts), caption, self.width)


def span(values: Iterable[float], *include: float) -> tuple[float, float]:
    """Minimum and maximum of the values and of `include`; (0, 1) without any."""
    all_values = [*values, *include]
    return (min(all_values), max(all_values)) if all_values else (0.0, 1.0)


def listed(items: Iterable[str]) -> str:
    return "; ".join(items)


def thinned(count: int, most: int = 8) -> Callable[[int], bool]:
    """Tells which of `count` positions get a label if there are to be about `most`; the last one always does."""
    step = -(-count // most)
    return lambda i: (count - 1 - i) % step == 0
