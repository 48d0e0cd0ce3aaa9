"""Several methods side by side: figures by round over seeds, with intervals, and win rate over KL as a drawing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from storage.files import publish_text
from tasks.evaluation.report.drawing import Figure, Plot, listed, span
from tasks.evaluation.report.page import FIGURE_STYLE

Record = Mapping[str, Any]
#: Two-sided 95 % quantiles of Student's t, for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_NORMAL = 1.96


@dataclass(frozen=True)
class Value:
    """A mean over seeds. half: of its 95 % interval (Student's t between seeds), None for a single seed."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half is None else f"{self.mean:.3f} ±{self.half:.3f}"


def over_seeds(values: Sequence[float]) -> Value:
    """The mean of one value a seed. Raises ValueError for none."""
    n = len(values)
    if not n:
        raise ValueError("no seed has a value")
    if n == 1:
        return Value(values[0], None)
    t = _T[n - 2] if n - 2 < len(_T) else _NORMAL
    return Value(mean(values), t * stdev(values) / math.sqrt(n))


def figures(record: Record) -> dict[str, float]:
    """The comparable figures of one round's record (rounds.json)."""
    said = record["figures"]
    wins = said["win_rate"].get("initial", {})
    found = {f"win vs initial ({judge})": value["mean"] for judge, value in wins.items()}
    found |= {"KL (nats)": said["kl"]["mean"], "tokens a reply": said["tokens"], "finished": said["finish_rate"]}
    found |= {name: value["mean"] for name, value in said["rates"].items() if name not in wins}
    found["seconds"] = sum(record["seconds"].values())
    if record["labels"]:
        costs = [row["cost"] for row in record["labels"]["annotators"] if row["cost"] is not None]
        if costs:
            found["cost of votes"] = sum(costs)
    return found


def by_round(runs: Sequence[Sequence[Record]]) -> list[dict[str, Value]]:
    """For each round from 1 on, figures over the runs (one a seed) of one method; rounds that all of them have."""
    rounds = min(len(run) for run in runs)
    result = []
    for number in range(1, rounds):
        each = [figures(run[number]) for run in runs]
        shared = [name for name in each[0] if all(name in other for other in each)]
        result.append({name: over_seeds([one[name] for one in each]) for name in shared})
    return result


def utility_figure(methods: Mapping[str, Sequence[Mapping[str, Value]]], judge: str) -> Figure:
    """Win rate against the initial policy over KL, a line a method, a point a round; whiskers are 95 % over seeds."""
    wins = f"win vs initial ({judge})"
    points = {
        name: [(each["KL (nats)"], each[wins]) for each in rounds if wins in each] for name, rounds in methods.items()
    }
    every = [pair for line in points.values() for pair in line]
    x = span((end for kl, _ in every for end in _ends(kl)), 0.0)
    y = span((end for _, win in every for end in _ends(win)), 0.5)
    title = f"Win rate over KL, by {judge}"
    plot = Plot(title, "win rate against the initial policy; 95 % intervals over seeds", x, y, names=points,
                x_title="KL to the initial policy, nats a reply", height=300)  # fmt: skip
    plot.reference(0.5)
    told, ends = [], []
    for series, (name, line) in enumerate(points.items()):
        plot.line([(0.0, 0.5), *((kl.mean, win.mean) for kl, win in line)], series, thin=True)
        for number, (kl, win) in enumerate(line, start=1):
            plot.whisker(kl.mean, *_ends(win), series)
            plot.lying_whisker(*_ends(kl), win.mean, series)
            tip = f"{name}, round {number}: win rate {win} at KL {kl}"
            plot.dot(kl.mean, win.mean, series, tip)
            told.append(tip)
        if line:
            ends.append((name, line[-1][1].mean, series))
    plot.names(ends)
    caption = "Each point is a round of a method, the mean over its seeds. Higher at the same KL is better."
    return plot.figure("methods", f"{title}. {listed(told)}.", caption)


def write_figure(figure: Figure, path: Path) -> None:
    """Publish the figure as an SVG file that stands alone."""
    publish_text(path, figure.svg(FIGURE_STYLE) + "\n")


def _ends(value: Value) -> tuple[float, float]:
    half = value.half or 0.0
    return value.mean - half, value.mean + half
