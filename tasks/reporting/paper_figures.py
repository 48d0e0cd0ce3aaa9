"""The paper's figures: a radar of grades, figures over rounds or annotators, the accuracy of a growing panel."""

import math
from collections.abc import Mapping, Sequence

from tasks.reporting.comparison import MT_BENCH, Value, ends
from tasks.reporting.report.drawing import (
    COLOURS,
    INSET,
    WIDTH,
    Figure,
    Plot,
    Point,
    header,
    label,
    listed,
    marker,
    number,
    segment,
    short,
    span,
    wrapped,
)
from tasks.reporting.report.lettering import width as text_width

_CENTRE, _RADIUS, _TOP = (WIDTH / 2, 172.0), 104.0, 10.0
_RINGS = (2.5, 5.0, 7.5, 10.0)
_LEGEND_LINE = 16.0
_LEGEND = 40  # characters of a name in it

Figures = Mapping[str, Value]


def categories(figures: Figures) -> dict[str, Value]:
    """MT-Bench's mean grades by category, out of the figures of a method."""
    start = f"{MT_BENCH}: "
    return {name.removeprefix(start): value for name, value in figures.items() if name.startswith(start)}


def radar(methods: Mapping[str, Figures], judge: str) -> Figure:
    """Mean grades from 0 to 10 by category, a polygon a method. Raises ValueError with fewer than three categories."""
    graded = {method: categories(figures) for method, figures in methods.items()}
    axes = list(dict.fromkeys(name for grades in graded.values() for name in grades))
    if len(axes) < 3:
        raise ValueError(f"a radar needs at least three categories, and there are {len(axes)}")
    parts = [header("MT-Bench by category", f"mean grade from 0 to 10, by {judge}")]
    for ring in _RINGS:
        parts.append(_path([_at(i, len(axes), ring) for i in range(len(axes))], "grid"))
        if ring < _TOP:  # the outermost is the axis' own end
            parts.append(label(_CENTRE[0] + 3, _CENTRE[1] - ring / _TOP * _RADIUS - 2, f"{ring:g}", "tick"))
    for place, name in enumerate(axes):
        parts.append(segment(_CENTRE, _at(place, len(axes), _TOP), "grid"))
        x, y = _at(place, len(axes), _TOP * 1.08)
        anchor = "middle" if abs(x - _CENTRE[0]) < 12 else "start" if x > _CENTRE[0] else "end"
        room = {"start": WIDTH - x - INSET, "end": x - INSET, "middle": WIDTH / 2}[anchor]
        parts.append(label(x, y + 4, short(name), "row", anchor, room=room))
    says = []
    for series, (method, grades) in enumerate(graded.items()):
        known = [(place, name, grades[name]) for place, name in enumerate(axes) if name in grades]
        points = [_at(place, len(axes), value.mean) for place, _, value in known]
        if len(known) == len(axes):
            parts.append(_path(points, f"line thin{' dashed' if series >= COLOURS else ''} c{series % COLOURS}"))
        for (_, name, value), (x, y) in zip(known, points, strict=True):
            parts.append(marker(x, y, series, f"{method}, {name}: {value}"))
            says.append(f"{method}, {name}: {value}")
    top = _CENTRE[1] + _RADIUS + 34
    legend = [short(method, _LEGEND) for method in graded]
    widths = [text_width(name, "name") + 26 for name in legend]
    places = wrapped(widths, INSET + 4, WIDTH - INSET, _LEGEND_LINE)
    for series, (method, name, (x, y)) in enumerate(zip(graded, legend, places, strict=True)):
        parts.append(marker(x + 4, top + y - 4, series, method))
        parts.append(label(x + 12, top + y, name, f"name c{series % COLOURS}", room=WIDTH - x - 12))
    height = top + places[-1][1] + 10
    caption = "Grades of different judges are not comparable, and neither are published ones."
    return Figure("radar", "MT-Bench by category", listed(says) + ".", height, "".join(parts), caption)


def _at(place: int, axes: int, grade: float) -> Point:
    """Where a grade is on axis `place`; the first points up, the others follow clockwise."""
    angle = 2 * math.pi * place / axes
    reach = grade / _TOP * _RADIUS
    return _CENTRE[0] + reach * math.sin(angle), _CENTRE[1] - reach * math.cos(angle)


def _path(points: Sequence[Point], classes: str) -> str:
    drawn = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return f'<path class="{classes}" fill="none" d="M{drawn}z"/>'


def over(
    lines: Mapping[str, Mapping[float, Value]], *, title: str, unit: str, x_title: str, name: str, caption: str
) -> Figure:
    """Values over rounds, annotators or the like, one line each, with 95 % intervals; whole numbers are on the axis."""
    every = [(x, value) for line in lines.values() for x, value in line.items()]
    xs = sorted({x for x, _ in every})
    heights = [end for _, value in every for end in ends(value)]
    marks = xs if all(x == int(x) for x in xs) else [float(x) for x in range(math.ceil(xs[0]), int(xs[-1]) + 1)]
    reach = (xs[0], xs[-1]) if marks == xs else (min(xs[0], marks[0]), max(xs[-1], marks[-1]))
    plot = Plot(title, unit, reach, span(heights), names=lines, x_title=x_title, x_ticks=marks, height=260)
    says = []
    for series, (line, values) in enumerate(lines.items()):
        shift = (series - (len(lines) - 1) / 2) * 4
        plot.line([(x, value.mean) for x, value in sorted(values.items())], series, thin=True, shift=shift)
        for x, value in sorted(values.items()):
            plot.whisker(x, *ends(value), series, shift=shift)
            plot.dot(x, value.mean, series, f"{line} at {x:g}: {value}", shift=shift)
            says.append(f"{line} at {x:g}: {value}")
    last = [(line, values[max(values)].mean, series) for series, (line, values) in enumerate(lines.items()) if values]
    plot.names(last)
    return plot.figure(name, f"{title}. {listed(says)}.", caption)


def accuracy(single: Mapping[str, float], panel: Mapping[int, tuple[Value, float, float]]) -> Figure:
    """single: accuracy of each annotator. panel: by size, the mean over panels of that size, the worst and the best."""
    xs: list[float] = [float(size) for size in sorted(panel)]
    reach = [end for value, low, high in panel.values() for end in (low, high, *ends(value))]
    plot = Plot("Share of pairs where chosen is preferred", "squares: one annotator alone; band: worst to best panel",
                (xs[0], xs[-1]), span([*single.values(), *reach], 0.5), x_title="annotators that vote together",
                x_ticks=xs, height=280, names=["panel"])  # fmt: skip
    plot.reference(0.5, "chance")
    plot.band([(x, panel[int(x)][1]) for x in xs], [(x, panel[int(x)][2]) for x in xs], 0)
    plot.line([(x, panel[int(x)][0].mean) for x in xs], 0)
    says = []
    for x in xs:
        value = panel[int(x)][0]
        plot.whisker(x, *ends(value), 0)
        plot.dot(x, value.mean, 0, f"panels of {x:g}: {value}")
        says.append(f"panels of {x:g}: {value}")
    for name, share in single.items():
        plot.dot(xs[0], share, 1, f"{name} alone: {share:.3f}", hollow=True)
        says.append(f"{name} alone: {share:.3f}")
    plot.names([("panel", panel[int(xs[-1])][0].mean, 0)])
    caption = "Line: mean over all panels of a size with its 95 % interval; band: the worst and the best of them."
    return plot.figure("accuracy", f"Accuracy of annotators and panels. {listed(says)}.", caption)
