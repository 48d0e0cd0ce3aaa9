"""The table, the drawing, the JSON and the verdict, from the records of finished arms."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.compare.arms import Arm
from benchmarks.compare.curves import Gap, Points, gap, gap_at_the_end, pooled
from benchmarks.machine import RESULTS, machine, write_result
from tasks.reporting.comparison import write_figure
from tasks.reporting.report.drawing import Figure, Plot, listed, span

Curves = dict[str, dict[int, Points]]


def curves(arms: Mapping[str, Sequence[Arm]]) -> Curves:
    """[method][seed]: the points of all finished arms."""
    by_method: Curves = defaultdict(dict)
    for method, own_arms in arms.items():
        rounds: dict[int, list[dict[str, Any]]] = defaultdict(list)
        initial: dict[int, list[float]] = {}
        for arm in own_arms:
            if record := arm.record():
                first, *later = record["rounds"]
                initial[arm.seed] = first["utility"]
                rounds[arm.seed] += [each | {"last": each is later[-1]} for each in later]
        for seed, made in rounds.items():
            kl, utility = np.array([each["kl"]["mean"] for each in made]), np.array([each["utility"] for each in made])
            last = np.array([each["last"] for each in made])
            by_method[method][seed] = Points(kl, utility, np.array(initial[seed]), last)
    return by_method


def report(console: Console, arms: Mapping[str, Sequence[Arm]], ours: str) -> int:
    """Print and write everything. Returns 1 if the curve of `ours` is below another method's in any seed, else 0."""
    by_method = curves(arms)
    if ours not in by_method:
        console.print(f"no arm of {ours} is finished: there is nothing to compare with")
        return 1
    console.print(_arms_table(arms))
    gaps = {
        method: {seed: between for seed in sorted(seeds) if seed in by_method[ours]
                 if (between := gap(by_method[ours][seed], seeds[seed]))}
        for method, seeds in by_method.items() if method != ours
    }  # fmt: skip
    console.print(_gaps_table(gaps, by_method, ours))
    console.print(machine())
    write_figure(curves_figure(by_method, ours), RESULTS / "compare.svg")
    below = [
        f"{method}, seed {seed}" for method, each in gaps.items() for seed, g in each.items() if g.verdict == "below"
    ]
    missing = [f"{method}, seed {seed}" for method in arms if method != ours for seed in {a.seed for a in arms[method]}
               if seed not in gaps.get(method, {})]  # fmt: skip
    missing += [arm.folder.name for mine in arms.values() for arm in mine if not arm.record()]
    result = {
        "ours": ours,
        "gaps": {
            method: {seed: asdict(g) | {"verdict": g.verdict} for seed, g in each.items()}
            for method, each in gaps.items()
        },
        "last_rounds": {
            method: {
                seed: gap_at_the_end(by_method[ours][seed], mine)
                for seed, mine in each.items()
                if seed in by_method[ours]
            }
            for method, each in by_method.items()
        },
        "misfit": {
            method: {seed: points.misfit for seed, points in each.items()} for method, each in by_method.items()
        },
        "arms": {arm.folder.name: _short(arm) for mine in arms.values() for arm in mine if arm.record()},
        "below": below,
        "missing": missing,
    }
    path = write_result("compare", result)
    console.print(f"written: {path}, {RESULTS / 'compare.svg'}")
    for what, names in ((f"{ours} lies below", below), ("not compared", missing)):
        if names:
            console.print(f"[red]{what}: {'; '.join(names)}[/]")
    return 1 if below or missing else 0


def _short(arm: Arm) -> dict[str, Any]:
    """The record without prompts' utilities."""
    record = arm.record()
    assert record
    rounds = [each | {"utility": float(np.mean(each["utility"]))} for each in record["rounds"]]
    return record | {"rounds": rounds}


def _arms_table(arms: Mapping[str, Sequence[Arm]]) -> Table:
    """One row per finished arm: KL and utility by round, and win rates after the last."""
    table = Table(title="arms: KL / utility by round; after the last: win rates, correct, garbage, words")
    for heading in ("arm", "round 1", "round 2", "round 3", "truth", "held-out", "correct", "garbage", "words"):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for arm in (arm for group in arms.values() for arm in group):
        if record := arm.record():
            _, *later = record["rounds"]
            last = later[-1]
            cells = [f"{each['kl']['mean']:.2f} / {np.mean(each['utility']):.2f}" for each in later]
            wins = [f"{last['win_rate'][judge]['mean']:.3f}" for judge in ("truth", "held-out")]
            rates = [f"{last['rates'][name]:.2f}" for name in ("correct", "garbage")]
            table.add_row(arm.folder.name, *cells, *wins, *rates, f"{last['words']:.1f}")
    return table


def _gaps_table(gaps: Mapping[str, Mapping[int, Gap]], by_method: Curves, ours: str) -> Table:
    seeds = sorted({seed for each in gaps.values() for seed in each})
    table = Table(
        title=f"utility of {ours} minus the method's at equal KL (mean over the common range ± standard error)"
    )
    table.add_column("method")
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    table.add_column("all seeds", justify="right")
    table.add_column("last rounds", justify="right")
    table.add_column("common KL", justify="right")
    table.add_column("least gap / se (at KL)", justify="right")
    table.add_column("misfit", justify="right")
    colours = {"above": "green", "below": "red", "on": "default"}
    for method, each in gaps.items():
        if not each:
            table.add_row(method, *["no common KL"] * len(seeds))
            continue
        cells = [
            f"[{colours[each[seed].verdict]}]{each[seed].mean:+.3f} ± {each[seed].se:.3f} {each[seed].verdict}[/]"
            if seed in each else "-"
            for seed in seeds
        ]  # fmt: skip
        mean, se = pooled(list(each.values()))
        ranges = "; ".join(f"{g.low:.2f}-{g.high:.2f}" for g in each.values())
        worst = min(each.values(), key=lambda g: g.worst)
        misfit = max(points.misfit for points in by_method[method].values())
        table.add_row(method, *cells, f"{mean:+.3f} ± {se:.3f}", _at_the_end(by_method, method, ours), ranges,
                      f"{worst.worst_gap:+.2f} / {worst.worst:+.1f} ({worst.at:.2f})", f"{misfit:.3f}")  # fmt: skip
    return table


def _at_the_end(by_method: Curves, method: str, ours: str) -> str:
    """Over seeds, our curve minus the method's last rounds."""
    ends = [
        gap_at_the_end(by_method[ours][seed], points)
        for seed, points in by_method[method].items()
        if seed in by_method[ours]
    ]
    known = [end for end in ends if end]
    if not known:
        return "-"
    mean, se = np.mean([value for value, _ in known]), np.sqrt(sum(error**2 for _, error in known)) / len(known)
    return f"{mean:+.3f} ± {se:.3f}"


def curves_figure(by_method: Curves, ours: str) -> Figure:
    """Utility gain over KL: the curve of each method, a mean over seeds, and the points of all its arms."""
    lines: dict[str, list[tuple[float, float]]] = {}
    dots: dict[str, list[tuple[float, float]]] = {}
    for method, seeds in by_method.items():
        kl = np.square(np.linspace(0, min(np.sqrt(points.kl.max()) for points in seeds.values()), 25))[1:]
        gains = np.mean([points.gains(kl).mean(axis=1) for points in seeds.values()], axis=0)
        lines[method] = [(0.0, 0.0), *zip(kl.tolist(), gains.tolist(), strict=True)]
        dots[method] = [
            (float(k), float(u - points.initial.mean()))
            for points in seeds.values()
            for k, u in zip(points.kl, points.utility.mean(axis=1), strict=True)
        ]
    every = [point for drawn in (*lines.values(), *dots.values()) for point in drawn]
    plot = Plot(
        "Utility over KL", "gain in ground-truth utility; a dot a round, all seeds",
        span(kl for kl, _ in every), span(gain for _, gain in every), names=by_method,
        width=560, height=420, x_title="KL to the initial policy, nats a reply",
    )  # fmt: skip
    for series, method in enumerate(by_method):
        plot.line(lines[method], series, thin=method != ours)
        for x, gain in dots[method]:
            plot.dot(x, gain, series, f"{method}: gain {gain:.2f} at KL {x:.2f}", hollow=method != ours)
    plot.names([(method, lines[method][-1][1], series) for series, method in enumerate(by_method)])
    says = listed(f"{method} ends at gain {line[-1][1]:.2f} at KL {line[-1][0]:.2f}" for method, line in lines.items())
    caption = "Curves are fitted: gain = a sqrt(KL) + b KL, the mean over seeds. Higher at the same KL is better."
    return plot.figure("compare", f"Utility over KL. {says}.", caption)
