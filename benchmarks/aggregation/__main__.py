"""Is aggregation right, as good as others' and fast?

    python -m benchmarks.aggregation                    # all four parts, about ten minutes on two cores
    python -m benchmarks.aggregation --parts tables agreement
    python -m benchmarks.aggregation --parts people --votes <file>   # anyone's votes, Parquet or JSONL
    python -m benchmarks.aggregation --votes <folder>   # with the public files; default ../shared/data/votes

tables: distance to the exact optimum in a tabular world; agreement: with choix and crowd-kit; people: predicting
people's votes, at least as well as the best library on every file; speed: 60,000 prompts. Prints tables, writes
benchmarks/results/aggregation.json, and leaves with 1 when a figure that must hold does not. Part people is skipped,
and says so, where the votes are not there.
"""

import argparse
import os
import sys
import tempfile
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from benchmarks.aggregation import agreement, people, speed, tables
from benchmarks.report import Report

_PARTS = ("tables", "agreement", "people", "speed")
_PROMPTS = 60_000
_GROWTH = 1.25  # of peak memory for ten times the prompts


def _tables(report: Report, seeds: int) -> None:
    pooled = {h: tables.by_votes(seeds, h) for h in tables.BOUNDS}
    single = {h: tables.by_votes(seeds, h, pooled=False) for h in tables.BOUNDS}
    table = Table("votes a pair", "round 1", "2", "3", "4", "must be", "each pair by itself", title="distance to pi*")
    for h, bound in tables.BOUNDS.items():
        means = [s.mean for s in pooled[h]]
        good = means[-1] <= bound and means == sorted(means, reverse=True)
        last = report.mark(f"tables, {h} votes", f"{means[-1]:.3f} ± {pooled[h][-1].error:.3f}", good)
        table.add_row(str(h), *(f"{m:.3f}" for m in means[:-1]), last, f"<= {bound}", f"{single[h][-1].mean:.3f}")
    report.console.print(table)
    final = [pooled[h][-1].mean for h in tables.BOUNDS]
    falls = final == sorted(final, reverse=True)
    report.console.print("falls with votes:", report.mark("tables, falls with votes", str(falls), falls))
    bias = tables.by_votes(seeds, 1, groups=32)[-1].mean, tables.by_votes(seeds, 1, pooled=False, groups=32)[-1].mean
    text = f"{bias[0]:.3f} pooled (< 0.09), {bias[1]:.3f} each pair by itself (> 0.19)"
    good = bias[0] < 0.09 and bias[1] > 0.19
    report.console.print("one vote a pair, 32 groups:", report.mark("tables, bias", text, good))
    few = max(1, seeds // 3)
    panels = {
        name: {rule: tables.by_panel(few, honesty, rule)[-1].mean for rule in ("none", "em", "lcpo")}
        for name, honesty in tables.PANELS.items()
    }
    table = Table("panel", "equal weights", "em", "lcpo", title=f"distance after three rounds, {few} seeds")
    for name, row in panels.items():
        good = row["em"] <= (0.10 if name == "6 honest, 3 adversarial" else row["none"] + 0.005)
        shown = report.mark(f"tables, {name}", f"{row['em']:.3f}", good)
        table.add_row(name, f"{row['none']:.3f}", shown, f"{row['lcpo']:.3f}")
    report.console.print(table)
    report.result["tables"] = {
        "pooled": {h: [asdict(s) for s in rows] for h, rows in pooled.items()},
        "single": {h: [asdict(s) for s in rows] for h, rows in single.items()},
        "bias": bias,
        "panels": panels,
    }


def _agreement(report: Report) -> None:
    apart = agreement.largest_differences()
    table = Table("model", "largest difference", title="the same as other libraries (must be <= 1e-6)")
    for name, value in apart.items():
        table.add_row(name, report.mark(name, f"{value:.1e}", value <= 1e-6))
    report.console.print(table)
    report.result["agreement"] = apart


def _people(report: Report, place: Path) -> None:
    files = [place] if place.is_file() else [place / name for name in people.FILES]
    missing = [path.name for path in files if not path.exists()]
    if missing:
        report.console.print(f"[yellow]people: skipped, {place} has no {', '.join(missing)}[/]")
        report.result["people"] = f"skipped: {place} has no {', '.join(missing)}"
        return
    report.result["people"] = {}
    for path in files:
        data = people.read_people(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = people.compare(data)
        rival = people.best_library(scores)
        gained = people.advantage(data, scores[people.OURS], scores[rival])
        table = Table(
            "method",
            "log-likelihood",
            "on pairs others voted on",
            "calibration error",
            title=f"{path.name}, {len(data.votes)} votes",
        )
        for method, score in scores.items():
            value = f"{score.likelihood:.4f}"
            if method == people.OURS:
                value = report.mark(f"people, {path.name}", value, gained.mean >= 0)
            table.add_row(method, value, f"{score.shared:.4f}", f"{score.calibration:.3f}")
        report.console.print(table)
        report.console.print(
            f"{people.OURS} less {rival}: {gained.mean:+.4f} nats a vote (95 % {gained.low:+.4f} to {gained.high:+.4f})"
        )
        rows = {name: {k: v for k, v in asdict(score).items() if k != "each"} for name, score in scores.items()}
        report.result["people"][path.name] = {"methods": rows, "best library": rival, "advantage": asdict(gained)}


def _speed(report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.parquet", Path(folder) / "large.parquet"
        speed.write_votes(small, _PROMPTS)
        runs = {rule: speed.measure(small, _PROMPTS, rule) for rule in ("none", "em")}
        loop, apart = speed.loop_seconds(small, _PROMPTS)
        speed.write_votes(large, 10 * _PROMPTS)
        ten = speed.measure(large, 10 * _PROMPTS, "none")
    table = Table("figure", "value", "must be", title=f"{_PROMPTS} prompts x 5 responses x 9 annotators")
    plain = runs["none"]
    for rule, run in runs.items():
        shown = report.mark(f"speed, {rule}", f"{run.seconds:.1f}", run.seconds < 10)
        table.add_row(f"seconds, votes.parquet to targets, reliability {rule}", shown, "< 10")
    table.add_row("seconds of a choix loop (100 prompts, scaled)", f"{loop:.0f}", "")
    ratio = loop / plain.seconds
    table.add_row("times faster", report.mark("speed, ratio", f"{ratio:.0f}", ratio >= 200), ">= 200")
    table.add_row("largest difference of a target", report.mark("speed, same", f"{apart:.1e}", apart < 1e-5), "< 1e-5")
    table.add_row("MiB at the peak, above imports", f"{plain.peak:.0f}", "")
    growth = ten.peak / plain.peak
    shown = report.mark("speed, memory", f"{ten.peak:.0f} ({growth:.2f} times)", growth <= _GROWTH)
    table.add_row("  for ten times the prompts", shown, f"<= {_GROWTH} times")
    report.console.print(table)
    report.result["speed"] = {rule: asdict(run) for rule, run in runs.items()} | {
        "choix": loop,
        "ratio": ratio,
        "ten times": asdict(ten),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--seeds", type=int, default=12, help="of the tabular world")
    default = Path(__file__).parents[2].parent / "shared" / "data" / "votes"
    parser.add_argument(
        "--votes",
        type=Path,
        default=Path(os.environ.get("IREPO_VOTES", default)),
        help="a file of votes, or the folder with the public ones; default: IREPO_VOTES",
    )
    arguments = parser.parse_args()
    report = Report()
    if "tables" in arguments.parts:
        _tables(report, arguments.seeds)
    if "agreement" in arguments.parts:
        _agreement(report)
    if "people" in arguments.parts:
        _people(report, arguments.votes)
    if "speed" in arguments.parts:
        _speed(report)
    return report.close("aggregation", {"choix": version("choix"), "crowd-kit": version("crowd-kit")})


if __name__ == "__main__":
    sys.exit(main())
