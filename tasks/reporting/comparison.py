"""Compares methods: figures by round over seeds, with intervals, and charts of win rate or utility over KL."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from storage.files import publish_text
from tasks.evaluation.intervals import Interval
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.record import RoundRecord
from tasks.reporting.report.drawing import Figure, Plot, listed, span
from tasks.reporting.report.page import FIGURE_STYLE

#: Names of figures. SCORE is a judge's mean score; where the judge is the ground truth, the utility.
WIN, SCORE, KL = "win vs initial", "mean score", "KL (nats)"
MT_BENCH, HARNESS, GAIN = "MT-Bench", "lm-eval", "gain a training second"
#: Two-sided 95 % quantiles of Student's t, for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_NORMAL = 1.96


@dataclass(frozen=True)
class Value:
    """A mean over seeds. half: half of its 95 % interval, by Student's t over seeds.

    With a single seed the interval is over held-out prompts; None for figures without one (seconds, cost).
    """

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half is None else f"{self.mean:.3f} ±{self.half:.3f}"


def over_seeds(values: Sequence[Value]) -> Value:
    """The mean of one value per seed; a single value is returned unchanged. Raises ValueError without values."""
    n = len(values)
    if not n:
        raise ValueError("no seed has a value")
    if n == 1:
        return values[0]
    t, means = _T[n - 2] if n - 2 < len(_T) else _NORMAL, [value.mean for value in values]
    return Value(mean(means), t * stdev(means) / math.sqrt(n))


def figures(record: RoundRecord) -> dict[str, Value]:
    """The comparable figures of one round's record (rounds.json), with their intervals over prompts."""
    metrics = record.figures
    wins, se = metrics.win_rate.get("initial", {}), metrics.kl.se
    values = {f"{WIN} ({judge})": _value(rate) for judge, rate in wins.items()}
    values |= {f"{SCORE} ({name})" if name in wins else name: _value(rate) for name, rate in metrics.rates.items()}
    values |= {KL: Value(metrics.kl.mean, None if se is None else _NORMAL * se)}
    values |= {"tokens a reply": Value(metrics.tokens, None), "finished": Value(metrics.finish_rate, None)}
    values |= _benchmarks(metrics)
    values["seconds"] = Value(sum(record.seconds.values()), None)
    if record.labels:
        costs = [annotator.cost for annotator in record.labels.annotators if annotator.cost is not None]
        if costs:
            values["cost of votes"] = Value(sum(costs), None)
    return values


def _benchmarks(metrics: Metrics) -> dict[str, Value]:
    """Grades of MT-Bench, overall, by turn and by category, and scores of lm-eval; {} without them."""
    values: dict[str, Value] = {}
    if metrics.mt_bench is not None:
        graded = metrics.mt_bench
        by_part = {MT_BENCH: graded.overall} | {f"{MT_BENCH} turn {turn}": each for turn, each in graded.turns.items()}
        by_part |= {f"{MT_BENCH}: {name}": each for name, each in graded.categories.items()}
        values |= {name: _value(each) for name, each in by_part.items() if each is not None}
    if metrics.harness is not None:
        for task, scores in metrics.harness.scores.items():
            for metric, score in scores.items():
                half = None if score.stderr is None else _NORMAL * score.stderr
                values[f"{HARNESS}: {task} {metric.removesuffix(',none')}"] = Value(score.value, half)
        if metrics.harness.average is not None:
            values[f"{HARNESS} average"] = Value(metrics.harness.average, None)
    return values


def gains(run: Sequence[RoundRecord], number: int) -> dict[str, Value]:
    """What the rounds up to `number` gained for each second of training, by judge.

    The gain of a win rate is over 1/2, that of a mean score over the initial policy's. {} where nothing was trained.
    """
    seconds = sum(record.seconds.get("train", 0.0) for record in run[1 : number + 1])
    if not seconds:
        return {}
    now, start = figures(run[number]), figures(run[0])
    values: dict[str, Value] = {}
    for name in worth(list(now)):
        before = 0.5 if name.startswith(WIN) else _mean(start, name)
        if before is not None:
            half = now[name].half
            gain = (now[name].mean - before) / seconds
            values[f"{GAIN}, {name}"] = Value(gain, None if half is None else half / seconds)
    return values


def _mean(values: Mapping[str, Value], name: str) -> float | None:
    """The initial policy has no win rates, so that its mean scores have their plain names."""
    plain = name.removeprefix(f"{SCORE} (").removesuffix(")")
    found = values.get(name) or values.get(plain)
    return None if found is None else found.mean


def _value(rate: Interval) -> Value:
    return Value(rate.mean, (rate.high - rate.low) / 2)


def by_round(runs: Sequence[Sequence[RoundRecord]]) -> list[dict[str, Value]]:
    """Figures of one method by round, from round 1 on, over its runs (one per seed); only rounds that every run has."""
    rounds = min(len(run) for run in runs)
    result = []
    for number in range(1, rounds):
        all_figures = [figures(run[number]) | gains(run, number) for run in runs]
        shared = [name for name in all_figures[0] if all(name in other for other in all_figures)]
        result.append({name: over_seeds([one[name] for one in all_figures]) for name in shared})
    return result


def worth(names: Sequence[str]) -> list[str]:
    """The names of figures that measure how good a policy is: win rates, mean scores of judges, MT-Bench's mean."""
    return [name for name in names if name.startswith((WIN, SCORE)) or name == MT_BENCH]


def over_kl(methods: Mapping[str, Sequence[Mapping[str, Value]]], figure: str) -> Figure:
    """A figure of `worth` over KL: one line per method, one point per round, with 95 % intervals.

    Lines of win rates start at the initial policy: 1/2 at KL 0.
    """
    points = {
        name: [(values[KL], values[figure]) for values in rounds if figure in values]
        for name, rounds in methods.items()
    }
    starts = [(0.0, 0.5)] if figure.startswith(WIN) else []
    pairs = [pair for line in points.values() for pair in line]
    x = span((end for kl, _ in pairs for end in ends(kl)), 0.0)
    y = span((end for _, value in pairs for end in ends(value)), *(start for _, start in starts))
    title = f"Over KL: {figure}"
    plot = Plot(title, "by round; 95 % intervals", x, y, names=points,
                x_title="KL to the initial policy, nats a reply", height=300)  # fmt: skip
    for _, start in starts:
        plot.reference(start)
    descriptions, names = [], []
    for series, (name, line) in enumerate(points.items()):
        plot.line([*starts, *((kl.mean, value.mean) for kl, value in line)], series, thin=True)
        for number, (kl, value) in enumerate(line, start=1):
            plot.whisker(kl.mean, *ends(value), series)
            plot.lying_whisker(*ends(kl), value.mean, series)
            tip = f"{name}, round {number}: {value} at KL {kl}"
            plot.dot(kl.mean, value.mean, series, tip)
            descriptions.append(tip)
        if line:
            names.append((name, line[-1][1].mean, series))
    plot.names(names)
    caption = "Each point is a round of a method, averaged over its seeds. Higher at the same KL is better."
    return plot.figure("methods", f"{title}. {listed(descriptions)}.", caption)


def write_figure(figure: Figure, path: Path) -> None:
    """Publish the figure as a stand-alone SVG file."""
    publish_text(path, figure.svg(FIGURE_STYLE) + "\n")


def ends(value: Value) -> tuple[float, float]:
    half = value.half or 0.0
    return value.mean - half, value.mean + half
