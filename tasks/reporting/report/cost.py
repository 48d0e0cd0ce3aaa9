"""Charts of what a gain costs and where it comes from: length, judges against the truth, calibration, displacement,
categories, properties of replies. A chart leaves out rounds without its measurement."""

from collections.abc import Sequence

from tasks.reporting.report.by_round import (
    across_rounds,
    course_of,
    draw,
    in_words,
    rolled_back,
    round_marks,
    win_bounds,
)
from tasks.reporting.report.drawing import (
    COLOURS,
    SMALL,
    WIDTH,
    Figure,
    Plot,
    Scale,
    header,
    label,
    listed,
    marker,
    segment,
    short,
    span,
    ticks,
    wrapped,
)
from tasks.reporting.report.files import Round, RunFiles
from tasks.reporting.report.lettering import width as text_width
from tasks.reporting.report.tables import Cell, sheet

_CURVES = 3  # rounds in the chart of calibration
_NAMES, _LINE = 92.0, 16.0
_SHIFT = 7.0
_REPLIES = ("tokens", "words", "characters", "finished", "unique", "distinct-1", "distinct-2")

REPLIES = (
    "Properties of replies, independent of judges: means over held-out replies, 95 % bootstrap intervals over prompts; "
    "shares of distinct texts and word n-grams, with jackknife intervals. Diversity falls when a policy collapses."
)


def charts(files: RunFiles) -> list[Figure]:
    figures = [_length(files), _gap(files), _displacement(files), _calibration(files)]
    return [figure for figure in figures if figure is not None]


def _length(files: RunFiles) -> Figure | None:
    """Win rate against the initial policy by difference of length, for the last round that was not rolled back."""
    last = _last(files, "length")
    effects = last.figures["length"].get("initial", {}) if last else {}
    judges = [judge for judge in files.judges if judge in effects]
    if last is None or not judges:
        return None
    title = "Length and wins"
    bins = {judge: effects[judge]["bins"] for judge in judges}
    x = span((at for points in bins.values() for at, _, _ in points), 0.0)
    y = span((won for points in bins.values() for _, won, _ in points), 0.5)
    unit = f"win rate against the initial policy, round {last.number}"
    plot = Plot(title, unit, x, y, names=judges, x_title="characters longer than the initial policy's reply")
    plot.reference(0.5, "even")
    descriptions = []
    for judge in judges:
        series = files.judges.index(judge)
        plot.line([(at, won) for at, won, _ in bins[judge]], series, thin=True)
        for at, won, count in bins[judge]:
            plot.dot(at, won, series, f"{judge}: win rate {won:.3f} of {count} replies, {at:+.0f} characters")
        effect = effects[judge]
        descriptions.append(f"{judge}: win rate at equal length {_between(effect['controlled'])}, slope "
                    f"{_between(effect['slope'])}")  # fmt: skip
    plot.names([(judge, bins[judge][-1][1], files.judges.index(judge)) for judge in judges])
    caption = (
        "Comparisons in equal parts by difference of length. Where a line rises, longer replies win more; the table "
        "below has win rates at equal length."
    )
    return plot.figure("length", f"{title}. {listed(descriptions)}.", caption)


def _gap(files: RunFiles) -> Figure | None:
    """Each judge's win rate against the initial policy minus the ground truth's, by round."""
    rounds = [round_ for round_ in files.evaluated if round_.figures.get("gap", {}).get("initial")]
    names = [judge for judge in files.judges if any(judge in round_.figures["gap"]["initial"] for round_ in rounds)]
    if not names:
        return None
    title = "Judges against the truth"
    courses = {
        judge: course_of(
            rounds, [(round_.figures["gap"]["initial"].get(judge) or {}).get("difference") for round_ in rounds]
        )
        for judge in names
    }
    bounds = span((end for course in courses.values() for _, _, low, high, _ in course for end in (low, high)), 0.0)
    plot = Plot(title, "win rate by the judge minus that by the truth; 95 % intervals", across_rounds(rounds), bounds,
                names=names, x_ticks=round_marks(rounds))  # fmt: skip
    plot.reference(0.0)
    for i, (judge, course) in enumerate(courses.items()):
        draw(plot, course, files.judges.index(judge), (i - (len(courses) - 1) / 2) * _SHIFT, judge)
    plot.names([(judge, course[-1][1], files.judges.index(judge)) for judge, course in courses.items()])
    caption = (
        "Against the initial policy, over comparisons that both decided. A widening gap means that the policy learns "
        "to please the judge rather than to be right."
    )
    description = listed(f"{judge}: {in_words(course)}" for judge, course in courses.items())
    return plot.figure("gap", f"{title}. {description}.", caption)


def _displacement(files: RunFiles) -> Figure | None:
    rounds = [round_ for round_ in files.evaluated if round_.figures.get("displacement")]
    if not rounds:
        return None
    title, sides = "Log-probability displacement", {"chosen": "chosen_initial", "rejected": "rejected_initial"}
    courses = {side: course_of(rounds, [round_.figures["displacement"][field] for round_ in rounds])
               for side, field in sides.items()}  # fmt: skip
    bounds = span((end for course in courses.values() for _, _, low, high, _ in course for end in (low, high)), 0.0)
    plot = Plot(title, "nats a reply since the initial policy; 95 % intervals", across_rounds(rounds), bounds,
                names=sides, x_ticks=round_marks(rounds))  # fmt: skip
    plot.reference(0.0)
    for series, (side, course) in enumerate(courses.items()):
        draw(plot, course, series, (series - 0.5) * _SHIFT, side)
    plot.names([(side, course[-1][1], series) for series, (side, course) in enumerate(courses.items())])
    caption = (
        "Mean of log π − log π₀ over the initial policy's held-out replies, those that the panel prefers and those "
        "that it rejects. Where both fall, the policy moves to replies unlike either."
    )
    description = listed(f"{side}: {in_words(course)}" for side, course in courses.items())
    return plot.figure("displacement", f"{title}. {description}.", caption)


def _calibration(files: RunFiles) -> Figure | None:
    rounds = [round_ for round_ in files.evaluated if round_.figures.get("calibration")][-_CURVES:]
    if not rounds:
        return None
    title = "Calibration of the implicit reward"
    names = [f"round {round_.number}" for round_ in rounds]
    curves = [[(sure, granted) for sure, granted, _ in round_.figures["calibration"]["bins"]] for round_ in rounds]
    x = span((sure for curve in curves for sure, _ in curve), 0.5)
    y = span((granted for curve in curves for _, granted in curve), *x)
    plot = Plot(title, "P̂ of the panel over P of the policy; held-out pairs", x, y, names=names,
                x_title="probability that the policy gives its preferred reply")  # fmt: skip
    corner = (plot.x.at(x[0]), plot.y.at(x[0])), (plot.x.at(x[1]), plot.y.at(x[1]))
    plot.parts.append(segment(*corner, "reference"))
    descriptions = []
    for series, (name, curve, round_) in enumerate(zip(names, curves, rounds, strict=True)):
        plot.line(curve, series, thin=True)
        calibration = round_.figures["calibration"]
        for (sure, granted), (_, _, count) in zip(curve, calibration["bins"], strict=True):
            tip = f"{name}: the policy says {sure:.3f}, the panel {granted:.3f}, {count} pairs"
            plot.dot(sure, granted, series, tip, hollow=rolled_back(round_))
        descriptions.append(f"{name}: slope {_between(calibration['slope'])}, right side "
                            f"{_between(calibration['accuracy'])}, "
                            f"expected calibration error {_between(calibration['error'])}")  # fmt: skip
    plot.names([(name, curve[-1][1], i) for i, (name, curve) in enumerate(zip(names, curves, strict=True))])
    caption = (
        "σ(β·Δ log π/π_ref) on the initial policy's held-out replies, pairs in equal parts. On the dotted line the "
        "policy is as confident as the panel; below it, overconfident."
    )
    return plot.figure("calibration", f"{title}. {listed(descriptions)}.", caption)


def category_charts(files: RunFiles) -> list[Figure]:
    """Win rate against the initial policy by category and judge, for the last round that was not rolled back."""
    last = _last(files, "categories")
    rates = (
        {name: category["win_rate"].get("initial", {}) for name, category in last.figures["categories"].items()}
        if last
        else {}
    )
    judges = [judge for judge in files.judges if any(judge in by_judge for by_judge in rates.values())]
    if last is None or not judges:
        return []
    ends = [end for by_judge in rates.values() for rate in by_judge.values() for end in (rate["low"], rate["high"])]
    marks = ticks(*span(ends, *win_bounds(files)))
    scale = Scale(marks[0], marks[-1], _NAMES, WIDTH - 12.0)
    title, top = "Win rate by category", 46.0
    step = _LINE * len(judges) * 0.7 + 14
    bottom = top + step * len(rates)
    parts, descriptions = [header(title, f"against the initial policy, round {last.number}; 95 % intervals")], []
    for mark in marks:
        parts.append(segment((scale.at(mark), top), (scale.at(mark), bottom), "grid"))
        parts.append(label(scale.at(mark), bottom + 14, f"{mark:g}", "tick", "middle"))
    parts.append(segment((scale.at(0.5), top), (scale.at(0.5), bottom), "reference"))
    for line, (name, by_judge) in enumerate(rates.items()):
        middle = top + step * (line + 0.5)
        count = last.figures["categories"][name]["prompts"]
        parts.append(label(_NAMES - 8, middle, short(name, 12), "row", "end", room=_NAMES - 8))
        parts.append(label(_NAMES - 8, middle + 12, f"{count} prompts", "note", "end", room=_NAMES - 8))
        for i, judge in enumerate(judge for judge in judges if judge in by_judge):
            y, rate, series = middle + (i - (len(by_judge) - 1) / 2) * 11, by_judge[judge], files.judges.index(judge)
            colour = f"c{series % COLOURS}"
            parts.append(segment((scale.at(rate["low"]), y), (scale.at(rate["high"]), y), f"whisker {colour}"))
            tip = f"{name}, {judge}: {_between(rate)}"
            parts.append(marker(scale.at(rate["mean"]), y, series, tip, hollow=rolled_back(last)))
            descriptions.append(tip)
    places = wrapped([text_width(short(judge), "name") + 22 for judge in judges], _NAMES, WIDTH + 10, 17)
    for judge, (x, lower) in zip(judges, places, strict=True):
        series, y = files.judges.index(judge), bottom + 29 + lower
        parts.append(marker(x, y, series, judge))
        parts.append(label(x + 7, y + 4, short(judge), f"name c{series % COLOURS}", room=WIDTH - x - 7))
    bottom += places[-1][1]
    caption = "As the chart of all prompts, for each category alone. Few prompts make wide intervals."
    return [Figure("categories", title, f"{title}. {listed(descriptions)}.", bottom + 42, "".join(parts), caption)]


def reply_charts(files: RunFiles) -> list[Figure]:
    """One small chart per property of replies, with the shared caption REPLIES."""
    rounds = [round_ for round_ in files.evaluated if round_.figures.get("replies")]
    figures = []
    measured = rounds[0].figures["replies"] if len(rounds) > 1 else {}
    for name in [name for name in _REPLIES if name in measured]:
        course = course_of(rounds, [round_.figures["replies"].get(name) for round_ in rounds])
        ends = [end for _, _, low, high, _ in course for end in (low, high)]
        counted = name in ("tokens", "words", "characters")
        bounds = span(ends, *([0.0] if counted else []))
        unit = (
            "a reply" if counted else "share of all replies" if name in ("finished", "unique") else "share of n-grams"
        )
        plot = Plot(name, f"{unit}, 95 % interval", across_rounds(rounds), bounds, x_ticks=round_marks(rounds),
                    width=SMALL, height=176)  # fmt: skip
        draw(plot, course, 0, 0.0, name)
        figures.append(plot.figure(f"reply-{name}", f"{name}: {in_words(course)}.", ""))
    return figures


def length_table(files: RunFiles) -> str:
    """Win rates beside those at equal length; empty where length was not measured."""
    rounds = [round_ for round_ in files.evaluated if round_.figures.get("length", {}).get("initial")]
    rows: list[list[Cell]] = []
    for round_ in rounds:
        effects, rates = round_.figures["length"]["initial"], round_.win_rates("initial")
        for judge in [judge for judge in files.judges if judge in effects and judge in rates]:
            effect, rate = effects[judge], rates[judge]
            rows.append(
                [str(round_.number), judge, _cell(rate), _cell(effect["controlled"]), _cell(effect["slope"]),
                 f"{effect['delta']:+.1f}", f"{effect['deviation']:.1f}"]
            )  # fmt: skip
    if not rows:
        return ""
    headings: list[Cell] = [
        "round", "judge", "win vs initial", ("LC (minimal)", "at equal length"), ("slope", "a standard deviation"),
        ("longer by", "characters"), ("deviation", "characters"),
    ]  # fmt: skip
    return sheet(headings, rows)


def calibration_table(files: RunFiles) -> str:
    rounds = [round_ for round_ in files.evaluated if round_.figures.get("calibration")]
    headings: list[Cell] = [
        "round", ("calibration slope", "below 1: overconfident"), ("on the panel's side", "of decided pairs"),
        ("calibration error", "expected"), ("displacement", "chosen, this round"),
        ("displacement", "rejected, this round"),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for round_ in rounds:
        calibration, moved = round_.figures["calibration"], round_.figures["displacement"]
        shown = [calibration["slope"], calibration["accuracy"], calibration["error"]]
        shown += [moved["chosen_round"], moved["rejected_round"]]
        rows.append([str(round_.number), *(_cell(value) for value in shown)])
    return sheet(headings, rows) if rows else ""


def category_table(files: RunFiles) -> str:
    """Rates by category, for the last round that was not rolled back; empty without rates or categories."""
    last = _last(files, "categories")
    categories = last.figures["categories"] if last else {}
    names = sorted({name for category in categories.values() for name in category["rates"]})
    rows: list[list[Cell]] = [
        [
            category,
            str(figures["prompts"]),
            *(_cell(figures["rates"][n]) if n in figures["rates"] else "–" for n in names),
        ]
        for category, figures in categories.items()
    ]
    return sheet(["category", "prompts", *names], rows) if names else ""


def _last(files: RunFiles, figure: str) -> Round | None:
    """The last round with `figure` that was not rolled back; the last one with it, where all were."""
    rounds = [round_ for round_ in files.evaluated if round_.number and round_.figures.get(figure)]
    standing: Sequence[Round] = [round_ for round_ in rounds if not rolled_back(round_)] or rounds
    return standing[-1] if standing else None


def _between(rate: dict[str, float]) -> str:
    return f"{rate['mean']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"


def _cell(rate: dict[str, float]) -> Cell:
    return f"{rate['mean']:.3f}", f"{rate['low']:.3f} to {rate['high']:.3f}"
