"""The theorem's gap in the tabular world: distance to the optimum against n, h and coverage, with a bound.

    python -m benchmarks.gap            # about a minute on one core
    python -m benchmarks.gap --seeds 2  # less sure

Total variation to pi* = pi_0 exp(r / beta) after one round; means over prompts and seeds. Prints tables, writes
benchmarks/results/gap.json, gap.svg and gap.png, and leaves with 1 when the bound is broken or more data does not help.
"""

import argparse
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.gap.bound import SIZE, Gap, Setting, one_round
from benchmarks.report import Report
from benchmarks.tabular.targets import Spread, spread
from benchmarks.tabular.world import make_world
from tasks.reporting.comparison import Value
from tasks.reporting.paper_figures import over
from tasks.reporting.report.page import FIGURE_STYLE
from tasks.reporting.report.png import has_font, png

_PROMPTS, _RESPONSES = 50, 20
_BASE = Setting()
SWEEPS: dict[str, list[Setting]] = {
    f"n: groups of {SIZE} responses a prompt": [replace(_BASE, groups=n) for n in (1, 2, 4, 8, 16, 32, 64)],
    "h: votes a pair": [replace(_BASE, voters=h) for h in (1, 3, 5, 9, 17, 33)],
    "coverage: mu ~ pi_0 to the power of": [replace(_BASE, sharpness=s) for s in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)],
}
#: Weighing and dropping pairs by the standard error of their targets.
PAIRS: dict[str, Setting] = {
    "pooled targets, equal weights": replace(_BASE, voters=3),
    "pooled targets, weights 1 / (se^2 + 1)": replace(_BASE, voters=3, weights="precision"),
    "each pair alone, equal weights": replace(_BASE, voters=3, alone=True),
    "each pair alone, weights 1 / (se^2 + 1)": replace(_BASE, voters=3, alone=True, weights="precision"),
    "pooled targets, the surer three quarters": replace(_BASE, voters=3, share=0.75),
    "pooled targets, the surer half": replace(_BASE, voters=3, share=0.5),
}


def measured(setting: Setting, seeds: int) -> dict[str, Spread]:
    """Means over seeds of every field of Gap."""
    gaps: list[Gap] = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        gaps.append(one_round(make_world(rng, _PROMPTS, _RESPONSES), setting, rng))
    return {name: spread([getattr(gap, name) for gap in gaps]) for name in Gap.__dataclass_fields__}


def _changed(setting: Setting, sweep: str) -> float:
    return float({"n": setting.groups, "h": setting.voters, "c": setting.sharpness}[sweep[0]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the pictures")
    options = parser.parse_args()
    report = Report(width=120)
    columns = ("distance", "met", "bound", "error", "coverage", "asked")
    drawn: dict[str, dict[float, Value]] = {}
    for name, settings in SWEEPS.items():
        table = Table(title=name, title_justify="left")
        for heading in ("", "TV to pi*", "bound, error where needed", "bound with C", "e", "C", "error of targets"):
            table.add_column(heading, justify="right")
        rows = [measured(setting, options.seeds) for setting in settings]
        for setting, row in zip(settings, rows, strict=True):
            at = _changed(setting, name)
            shown = [f"{row['distance'].mean:.4f} ±{row['distance'].error:.4f}"]
            table.add_row(f"{at:g}", *shown, *(f"{row[column].mean:.3g}" for column in columns[1:]))
            if not row["distance"].mean <= row["met"].mean <= row["bound"].mean + 1e-9:
                report.missed.append(f"{name} {at:g}: the bound does not hold")
        report.console.print(table)
        distances = [row["distance"].mean for row in rows]
        if name[0] in "nh" and not all(later < before for before, later in pairwise(distances)):
            report.missed.append(f"{name}: the distance does not fall")
        report.result[name] = [
            asdict(s) | {k: v.mean for k, v in r.items()} for s, r in zip(settings, rows, strict=True)
        ]
        if name[0] in "nh":
            drawn[name.partition(":")[0]] = {
                float(np.log2(_changed(s, name))): Value(r["distance"].mean, 1.96 * r["distance"].error)
                for s, r in zip(settings, rows, strict=True)
            }
    table = Table("pairs", "TV to pi*", "pairs a prompt", title="by the standard error of targets, 3 votes a pair",
                  title_justify="left")  # fmt: skip
    kept = {name: measured(setting, options.seeds) for name, setting in PAIRS.items()}
    for name, row in kept.items():
        table.add_row(name, f"{row['distance'].mean:.4f} ±{row['distance'].error:.4f}", f"{row['pairs'].mean:.0f}")
    report.console.print(table)
    report.result["pairs"] = {name: {key: value.mean for key, value in row.items()} for name, row in kept.items()}
    _draw(drawn, options.out)
    return report.close("gap", {"seeds": options.seeds})


def _draw(lines: dict[str, dict[float, Value]], folder: Path) -> None:
    figure = over(
        lines,
        title="Distance to the optimum",
        unit="total variation after one round; 95 % intervals over seeds",
        x_title="log2 of n (groups a prompt), of h (votes a pair)",
        name="gap",
        caption="The other number is 8 groups, or 5 votes.",
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gap.svg").write_text(figure.svg(FIGURE_STYLE) + "\n", encoding="utf-8")
    if has_font():
        (folder / "gap.png").write_bytes(png(figure, FIGURE_STYLE))


if __name__ == "__main__":
    sys.exit(main())
