"""Charts of training curves, time by stage, and cost by annotator."""

from collections.abc import Sequence

from tasks.reporting.duration import duration
from tasks.reporting.report.drawing import (
    WIDTH,
    Figure,
    Plot,
    Scale,
    header,
    label,
    listed,
    rectangle,
    short,
    span,
    thinned,
    wrapped,
)  # fmt: skip
from tasks.reporting.report.files import Round
from tasks.reporting.report.lettering import width as text_width

_POINTS = 240  # per curve; more steps are drawn as means of neighbours
_NAMES = 106.0
_LINE = 24.0
_LAST = 12  # rounds in the chart of time
_COLOURS = 6
_OTHER = "other"

#: name, title, unit, {line: field}, caption
_CURVES = (
    ("loss", "Loss", "mean over a step's pairs", {"loss": "loss"}, "What the optimizer minimises, before its step."),
    ("margin", "Margin and its target", "nats; means over a step's pairs", {"margin": "margin", "label": "label"},
     "Margin: the implicit reward difference β·[log π/π_ref(chosen) − log π/π_ref(rejected)]. Label: its target."),
    ("ratios", "Log-ratios to the reference", "nats a reply", {"chosen": "h_chosen", "rejected": "h_rejected"},
     "log π/π_ref of chosen and rejected replies. Both can fall while the margin grows."),
    ("accuracy", "Pairs ordered correctly", "share of a step's pairs", {"accuracy": "accuracy"},
     "Share of pairs whose margin agrees with the label in sign."),
)  # fmt: skip


def training_charts(rounds: Sequence[Round]) -> list[Figure]:
    """Curves over all optimizer steps of the run, round after round."""
    trained = [(round_.number, round_.training) for round_ in rounds if round_.training]
    figures = []
    for name, title, unit, lines, caption in _CURVES if trained else ():
        courses: dict[str, list[list[tuple[float, float]]]] = {line: [] for line in lines}
        starts, done = [], 0
        for number, steps in trained:
            starts.append((number, done))
            for line, field in lines.items():
                courses[line].append(_thin([(done + row["step"], row[field]) for row in steps if field in row]))
            done += len(steps)
        values = [y for parts in courses.values() for part in parts for _, y in part]
        if not values:
            continue
        bounds = (0.0, 1.0) if name == "accuracy" else span(values, *([0.0] if name == "loss" else []))
        plot = Plot(title, unit, (0.0, float(done)), bounds, names=lines if len(lines) > 1 else (),
                    x_title="optimizer steps of all rounds", height=206)  # fmt: skip
        shown = thinned(len(starts))
        for i, (number, start) in enumerate(starts):
            if shown(i) or len(starts) < 20:
                plot.upright(start, f"round {number}" if len(starts) < 4 else str(number) if shown(i) else "")
        if name == "accuracy":
            plot.reference(0.5, "")
        for series, parts in enumerate(courses.values()):
            for part in parts:
                plot.line(part, series, thin=True)
        if len(lines) > 1:
            plot.names([(line, parts[-1][-1][1], i) for i, (line, parts) in enumerate(courses.items()) if parts[-1]])
        description = listed(
            f"{line}, round {number}: {part[0][1]:.3g} to {part[-1][1]:.3g}"
            for line, parts in courses.items()
            for (number, _), part in zip(starts, parts, strict=True)
            if part
        )
        thin = " Neighbouring steps are drawn as their mean." if any(len(s) > _POINTS for _, s in trained) else ""
        figures.append(plot.figure(f"training-{name}", f"{title}. {description}.", caption + thin))
    return figures


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // _POINTS) or 1
    blocks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in block) / len(block), sum(y for _, y in block) / len(block)) for block in blocks]


def time_chart(rounds: Sequence[Round]) -> list[Figure]:
    """Seconds by stage, one bar per round."""
    timed = [round_ for round_ in rounds if round_.seconds][-_LAST:]
    if not timed:
        return []
    longest = max(sum(round_.seconds.values()) for round_ in timed)
    scale = Scale(0.0, longest or 1.0, 56.0, WIDTH - 78.0)
    title = "Time by stage"
    stages = _timed_stages(timed)
    parts = [header(title, "one bar per round, its total on the right")]
    places = wrapped([24 + text_width(stage, "row") for stage in stages], 0.0, WIDTH + 10, 17)
    for i, (stage, (x, lower)) in enumerate(zip(stages, places, strict=True)):
        parts += [rectangle(x, 41 + lower, 10, 10, f"bar c{i}"), label(x + 14, 50 + lower, stage, "row")]
    top = 41.0 + places[-1][1]
    descriptions = []
    for line, round_ in enumerate(timed):
        y, done = top + 21 + line * _LINE, 0.0
        parts.append(label(48, y + 14, f"round {round_.number}" if round_.number else "initial", "row", "end", room=48))
        others = sum(seconds for stage, seconds in round_.seconds.items() if stage not in stages)
        for i, stage in enumerate(stages):
            seconds = others if stage == _OTHER else round_.seconds.get(stage, 0.0)
            if seconds:
                tip = f"round {round_.number}, {stage}: {duration(seconds)}"
                left, right = scale.at(done), scale.at(done + seconds)
                parts.append(rectangle(left + 0.5, y + 3, max(right - left - 1, 0.5), _LINE - 8, f"bar c{i}", tip))
                descriptions.append(tip)
                done += seconds
        parts.append(label(scale.at(done) + 6, y + 14, duration(done), "row", room=WIDTH - scale.at(done) - 6))
    few = f" The last {_LAST} rounds." if len(rounds) > _LAST else ""
    caption = (
        "Seconds in each stage's manifest, for the attempt that finished it; evaluation includes its responses and "
        f"judgements.{few}"
    )
    says = f"{title}. {listed(descriptions)}."
    return [Figure("time", title, says, top + 25 + len(timed) * _LINE, "".join(parts), caption)]


def _timed_stages(rounds: Sequence[Round]) -> list[str]:
    """The stages to draw, in the order of a round: those that took longest, and `other` when there are too many."""
    totals: dict[str, float] = {}
    for round_ in reversed(rounds):
        for stage, seconds in round_.seconds.items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    if len(totals) <= _COLOURS:
        return list(totals)
    longest = sorted(totals, key=lambda stage: -totals[stage])[: _COLOURS - 1]
    return [*(stage for stage in totals if stage in longest), _OTHER]


def money_chart(rounds: Sequence[Round]) -> list[Figure]:
    """Cost by annotator and judge over all rounds; empty where no annotator has a price."""
    totals: dict[str, float] = {}
    for spent in (spent for round_ in rounds for spent in round_.spent):
        if spent.cost is not None:
            totals[spent.name] = totals.get(spent.name, 0.0) + spent.cost
    if not any(totals.values()):
        return []
    scale = Scale(0.0, max(totals.values()), _NAMES, WIDTH - 78.0)
    title = "Cost by annotator"
    whole = sum(totals.values())
    parts = [header(title, f"all rounds, in the currency of the prices; total {whole:.2f}")]
    for line, (name, cost) in enumerate(totals.items()):
        y = 44.0 + line * _LINE
        parts.append(label(_NAMES - 8, y + 14, short(name, 15), "row", "end", room=_NAMES - 8))
        parts.append(rectangle(_NAMES, y + 3, scale.at(cost) - _NAMES, _LINE - 8, "bar c0", f"{name}: {cost:.4f}"))
        x, amount = scale.at(cost) + 6, f"{cost:.2f}" if cost >= 0.1 else f"{cost:.4f}"
        parts.append(label(x, y + 14, amount, "row", room=WIDTH - x))
    description = listed(f"{name} {cost:.4f}" for name, cost in totals.items())
    caption = "Cost of all answers of annotators and judges, at the prices in their settings, as recorded with votes."
    return [Figure("money", title, f"{title}: {description}.", 50 + len(totals) * _LINE, "".join(parts), caption)]
