"""Charts by round: win rates, KL, win rate over KL, rates."""

from collections.abc import Sequence

from storage.rows import Row
from tasks.reporting.report.drawing import SMALL, Figure, Plot, label, listed, span, thinned
from tasks.reporting.report.files import Round, RunFiles

_WHISKERS = 12  # rounds; more are drawn as a band
_NORMAL = 1.96
_DODGE = 8.0  # units between the intervals of two judges in one round

RATES = "Means over held-out replies, with 95 % bootstrap intervals over prompts. Rates between 0 and 1 share a scale."

#: (round, mean, low, high, rolled back)
Course = list[tuple[int, float, float, float, bool]]


def charts(files: RunFiles) -> list[Figure]:
    rounds = files.evaluated
    figures = []
    sources = {"initial": "the initial policy", "previous": "the policy before"} | {n: n for n in files.named}
    for source, against in sources.items():
        courses = {
            judge: course_of(rounds, [_win(round_, source, judge) for round_ in rounds]) for judge in files.judges
        }
        if any(courses.values()):
            figures.append(_win_rate(source, against, {name: c for name, c in courses.items() if c}, rounds, files))
    if len(rounds) > 1:
        figures.append(_divergence(rounds))
        if utility := _utility(files):
            figures.append(utility)
    return figures


def rate_charts(files: RunFiles) -> list[Figure]:
    """One small chart per rate, with the shared caption RATES; rates between 0 and 1 share a scale."""
    rounds = files.evaluated
    names = sorted({name for round_ in rounds for name in round_.figures["rates"]}) if len(rounds) > 1 else []
    figures = []
    for i, name in enumerate(names):
        course = course_of(rounds, [round_.figures["rates"].get(name) for round_ in rounds])
        share = all(low >= 0 and high <= 1 for _, _, low, high, _ in course)
        bounds = (0.0, 1.0) if share else span([end for _, _, low, high, _ in course for end in (low, high)], 0.0)
        what = "mean score by this judge" if name in files.judges else "mean over replies"
        plot = Plot(name, f"{what}, 95 % interval", across_rounds(rounds), bounds, x_ticks=round_marks(rounds),
                    width=SMALL, height=176)  # fmt: skip
        draw(plot, course, 0, 0.0, name)
        figures.append(plot.figure(f"rate-{i + 1}", f"{name}: {in_words(course)}.", ""))
    return figures


def _win(round_: Round, source: str, judge: str) -> Row | None:
    if source == "previous" and round_.number and round_.base == 0:
        source = "initial"  # the policy before is the initial policy: one comparison serves both
    return round_.win_rates(source).get(judge)


def win_bounds(files: RunFiles) -> tuple[float, float]:
    """The common scale of all win rate charts: every interval of the run, and 0.5."""
    rates = [
        rate for round_ in files.evaluated for judges in round_.figures["win_rate"].values() for rate in judges.values()
    ]
    return span((end for rate in rates for end in (rate["low"], rate["high"])), 0.5)


def course_of(rounds: Sequence[Round], intervals: Sequence[Row | None]) -> Course:
    return [
        (round_.number, interval["mean"], interval["low"], interval["high"], rolled_back(round_))
        for round_, interval in zip(rounds, intervals, strict=True)
        if interval
    ]


def rolled_back(round_: Round) -> bool:
    return round_.decision is not None and round_.decision.action == "roll back"


def across_rounds(rounds: Sequence[Round]) -> tuple[float, float]:
    return rounds[0].number, rounds[-1].number


def round_marks(rounds: Sequence[Round]) -> list[float]:
    shown = thinned(len(rounds))
    return [round_.number for i, round_ in enumerate(rounds) if shown(i)]


def draw(plot: Plot, course: Course, series: int, shift: float, name: str) -> None:
    if len(course) > _WHISKERS:
        plot.band([(x, low) for x, _, low, _, _ in course], [(x, high) for x, _, _, high, _ in course], series)
        shift = 0.0
    plot.line([(x, mean) for x, mean, *_ in course], series, shift=shift)
    for x, mean, low, high, hollow in course:
        if len(course) <= _WHISKERS:
            plot.whisker(x, low, high, series, shift)
        plot.dot(x, mean, series, f"round {x}, {name}: {mean:.3f} [{low:.3f}, {high:.3f}]", shift=shift, hollow=hollow)


def in_words(course: Course) -> str:
    return listed(f"round {x} {mean:.3f} [{low:.3f}, {high:.3f}]" for x, mean, low, high, _ in course)


def _win_rate(
    source: str, against: str, courses: dict[str, Course], rounds: Sequence[Round], files: RunFiles
) -> Figure:
    trained = [round_ for round_ in rounds if round_.number or source in files.named] or rounds
    title = f"Win rate against {against}"
    unit = "share of held-out comparisons won; by judge, 95 % intervals"
    plot = Plot(title, unit, across_rounds(trained), win_bounds(files), names=courses, x_ticks=round_marks(trained))
    plot.reference(0.5, "even")
    for i, (judge, course) in enumerate(courses.items()):
        series = files.judges.index(judge)
        draw(plot, course, series, (i - (len(courses) - 1) / 2) * _DODGE, judge)
    plot.names([(judge, course[-1][1], files.judges.index(judge)) for judge, course in courses.items()])
    says = listed(f"{judge}: {in_words(course)}" for judge, course in courses.items())
    first = " In rounds that start from the initial policy, that is the policy before." if source == "previous" else ""
    caption = (
        "Mean over held-out comparisons of 1 for a win, ½ for a tie, 0 for a loss; abstentions and errors left out. "
        f"95 % percentile bootstrap over prompts.{first}"
    )
    return plot.figure(f"win-rate-{source}", f"{title}. {says}.", caption)


def _divergences(rounds: Sequence[Round]) -> Course:
    intervals = []
    for round_ in rounds:
        kl = round_.figures["kl"]
        half = _NORMAL * (kl["se"] or 0.0)
        intervals.append({"mean": kl["mean"], "low": kl["mean"] - half, "high": kl["mean"] + half})
    return course_of(rounds, intervals)


def _divergence(rounds: Sequence[Round]) -> Figure:
    course = _divergences(rounds)
    bounds = span([end for _, _, low, high, _ in course for end in (low, high)], 0.0)
    title = "KL to the initial policy"
    plot = Plot(title, "nats a reply, 95 % interval", across_rounds(rounds), bounds, x_ticks=round_marks(rounds))
    draw(plot, course, 0, 0.0, "KL")
    caption = (
        "Mean of log π(y|x) − log π₀(y|x) over the policy's held-out replies y, ±1.96 standard errors over prompts. "
        "The value of a single reply may be negative; the mean is unbiased."
    )
    return plot.figure("kl", f"{title}, nats a reply: {in_words(course)}.", caption)


def _utility(files: RunFiles) -> Figure | None:
    """Win rate against the initial policy over KL; None without judges."""
    rounds = [round_ for round_ in files.evaluated if round_.number and round_.win_rates("initial")]
    if not rounds:
        return None
    divergences = {x: (mean, low, high) for x, mean, low, high, _ in _divergences(rounds)}
    judges = [judge for judge in files.judges if any(judge in round_.win_rates("initial") for round_ in rounds)]
    title = "What a win costs"
    bounds = span((end for ends in divergences.values() for end in ends), 0.0)
    unit, across = (
        "win rate against the initial policy, over KL; 95 % intervals",
        "KL to the initial policy, nats a reply",
    )
    plot = Plot(title, unit, bounds, win_bounds(files), names=judges, x_title=across)
    plot.reference(0.5)
    plot.parts.append(
        f'<circle cx="{plot.x.at(0):.1f}" cy="{plot.y.at(0.5):.1f}" r="3" class="origin"/>'
    )  # the initial policy against itself
    descriptions, ends, shown = [], [], thinned(len(rounds))
    for judge in judges:
        series = files.judges.index(judge)
        points = [
            (round_, round_.win_rates("initial")[judge]) for round_ in rounds if judge in round_.win_rates("initial")
        ]
        plot.line([(0.0, 0.5), *((divergences[round_.number][0], rate["mean"]) for round_, rate in points)], series,
                  thin=True)  # fmt: skip
        for i, (round_, rate) in enumerate(points):
            kl, low, high = divergences[round_.number]
            plot.lying_whisker(low, high, rate["mean"], series)
            plot.whisker(kl, rate["low"], rate["high"], series)
            tip = f"round {round_.number}, {judge}: win rate {rate['mean']:.3f} at KL {kl:.2f}"
            plot.dot(kl, rate["mean"], series, tip, hollow=rolled_back(round_))
            if judge == judges[0] and shown(i):
                plot.parts.append(_below(plot, kl, min(r["low"] for r in round_.win_rates("initial").values()), round_))
            descriptions.append(tip)
        ends.append((judge, points[-1][1]["mean"], series))
    plot.names(ends)
    caption = (
        "Each point is a round, with its number below it. Higher is better; further right is further from the initial "
        "policy. Where the curve flattens, more KL gains little."
    )
    return plot.figure("win-rate-over-kl", f"{title}. {listed(descriptions)}.", caption)


def _below(plot: Plot, x: float, y: float, round_: Round) -> str:
    return label(plot.x.at(x), plot.y.at(y) + 13, round_.number, "tick", "middle")
