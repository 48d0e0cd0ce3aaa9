"""Do the objectives solve what they say they solve? In tables, with the project's own objectives and estimators.

    python -m benchmarks.theory                    # about two minutes on one core
    python -m benchmarks.theory --seeds 12 --wide 4

Distances are total variation to pi* = pi_0 exp(r / beta), means over 50 prompts and the seeds. Prints tables, writes
benchmarks/results/theory.json, and leaves with 1 when a figure that must hold does not.
"""

import argparse
import sys
import time
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import torch
from rich.table import Table

from benchmarks.report import Report
from benchmarks.theory import population, sampled
from benchmarks.theory.sampled import BOUNDS, Setting, by_rounds

_GROUPS = (1, 2, 8, 32)
_ALIKE = 0.005  # of soft-vote DPO and pooled iREPO
_EXACT = 1e-4  # of a minimum found to one in closed form
_PANEL = [1.0] * 6 + [0.0] * 3


def _falls(values: list[float]) -> bool:
    return all(later < earlier for earlier, later in pairwise(values))


def _votes_and_rounds(report: Report, seeds: int) -> None:
    table = Table("votes a pair", "round 1", "2", "3", "4", "must be", title=f"iREPO, pooled, replay; {seeds} seeds")
    found = {h: by_rounds(Setting(sampled.irepo, h), seeds).optimum for h in BOUNDS}
    for h, bound in BOUNDS.items():
        means = [each.mean for each in found[h]]
        good = means[-1] <= bound and _falls(means)
        last = report.mark(f"iREPO, {h} votes", f"{means[-1]:.3f} ± {found[h][-1].error:.3f}", good)
        table.add_row(str(h), *(f"{mean:.3f}" for mean in means[:-1]), last, f"<= {bound}, falls")
    report.console.print(table)
    final = [found[h][-1].mean for h in BOUNDS]
    report.say("falls with votes", str(_falls(final)), _falls(final))
    exact = sampled.solved_exactly()
    report.say("objective against closed form, largest distance", f"{exact:.1e} (<= {_EXACT})", exact <= _EXACT)
    report.result["votes"] = {h: [asdict(each) for each in rows] for h, rows in found.items()}
    report.result["exact"] = exact


def _samples(report: Report, seeds: int) -> None:
    found = {
        h: {g: by_rounds(Setting(sampled.irepo, h, groups=g), seeds).optimum[-1].mean for g in _GROUPS}
        for h in (1, 5, 25)
    }
    table = Table("votes a pair", *(f"{g} groups" for g in _GROUPS), title=f"by samples, after 4 rounds; {seeds} seeds")
    for h, row in found.items():
        falls = _falls(list(row.values()))
        table.add_row(str(h), *(report.mark(f"falls with samples, {h} votes", f"{v:.3f}", falls) for v in row.values()))
    report.console.print(table)
    single = by_rounds(Setting(sampled.irepo_single, 1, groups=32), seeds).optimum[-1].mean
    pooled = found[1][32]
    text = f"{pooled:.3f} pooled (< 0.09), {single:.3f} each pair by itself, alpha = 0.5 (> 0.19)"
    report.say("one vote a pair, 32 groups", text, pooled < 0.09 and single > 0.19)
    report.result["samples"] = found
    report.result["bias"] = {"pooled": pooled, "single": single}


def _labels(report: Report, seeds: int) -> None:
    methods = {
        "irepo": sampled.irepo,
        "dpo-soft, every vote, the same prior": sampled.dpo_soft,
        "irepo, each pair by itself": sampled.irepo_single,
        "ipo, majority, tau=.35": sampled.ipo_majority,
        "dpo, majority": sampled.dpo_majority,
    }
    votes = (1, 5, 25, 101)
    found = {
        name: {h: by_rounds(Setting(method, h), seeds).optimum[-1].mean for h in votes}
        for name, method in methods.items()
    }
    grows = _falls([-found["dpo, majority"][h] for h in votes])
    table = Table("method", *(f"{h} votes" for h in votes), title=f"the same votes, after 4 rounds; {seeds} seeds")
    for name, row in found.items():
        good = grows or name != "dpo, majority"
        table.add_row(name, *(report.mark("dpo, majority, grows with votes", f"{v:.3f}", good) for v in row.values()))
    report.console.print(table)
    alike = {h: sampled.equal_to_soft_dpo(seeds, h) for h in (1, 5, 25)}
    for h, (ours, theirs, apart) in alike.items():
        text = f"{ours:.4f} and {theirs:.4f}; from the same votes {apart:.4f} apart (<= {_ALIKE})"
        report.say(f"iREPO and soft-vote DPO, {h} votes", text, max(abs(ours - theirs), apart) <= _ALIKE)
    report.result["methods"] = found
    report.result["soft DPO"] = alike


def _references(report: Report, seeds: int) -> None:
    def of(**words: Any) -> Any:
        return by_rounds(Setting(sampled.irepo, 5, rounds=5, **words), seeds)

    rows = {
        "initial, replay": of(),
        "initial, this round's votes": of(replay=False),
        "previous, this round's votes": of(replay=False, reference="previous"),
    }
    table = Table(
        "reference", *(f"round {n}" for n in range(1, 6)), "to pi_0 exp(5 r/beta)", title="references, 5 votes a pair"
    )
    for name, row in rows.items():
        table.add_row(name, *(f"{each.mean:.3f}" for each in row.optimum), f"{row.sharpened[-1].mean:.3f}")
    report.console.print(table)
    previous = rows["previous, this round's votes"]
    good = previous.optimum[-1].mean > previous.optimum[0].mean
    good = good and previous.sharpened[-1].mean < previous.optimum[-1].mean
    report.say("the previous reference sharpens", str(good), good)
    report.result["references"] = {name: asdict(row) for name, row in rows.items()}


def _adversaries(report: Report, seeds: int) -> None:
    setting = {"equal weights": sampled.irepo, "reliability=em": sampled.irepo_reliable}
    found = {n: by_rounds(Setting(m, _PANEL, rounds=3), seeds).optimum[-1].mean for n, m in setting.items()}
    text = f"{found['reliability=em']:.3f} (<= 0.10); with equal weights {found['equal weights']:.3f}"
    report.say("3 of 9 annotators reverse their votes, 3 rounds", text, found["reliability=em"] <= 0.10)
    report.result["adversaries"] = found


def _population(report: Report) -> None:
    table = Table("method", "aims at", "to its aim", "to pi*", "reward", "", title="all pairs, votes without number")
    rows = population.rows()
    for row in rows:
        own = "" if row.own is None else f"{row.own:.4f}"
        shown = report.mark(row.method, own, not row.exact or (row.own or 0.0) <= population.NEAR)
        table.add_row(row.method, row.goal, shown, f"{row.optimum:.3f}", f"{row.reward:.2f}", row.shows)
    report.console.print(table)
    for word, why in population.ABSENT.items():
        report.console.print(f"not in the table: {word}, {why}")
    circle = population.circle().distance
    near = all(circle[name] <= population.NEAR for name in ("inpo", "online-ipo"))
    text = ", ".join(f"{name} {value:.3f}" for name, value in circle.items())
    report.say("preferences that go round, distance to the regularised Nash policy", text, near)
    report.result["population"] = [asdict(row) for row in rows]
    report.result["circle"] = circle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--wide", type=int, default=4, help="seeds of tables where differences are large")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    report = Report(width=150)
    _votes_and_rounds(report, arguments.seeds)
    _samples(report, arguments.wide)
    _labels(report, arguments.wide)
    _references(report, arguments.wide)
    _adversaries(report, arguments.wide)
    _population(report)
    report.result["seconds"] = round(time.monotonic() - started, 1)
    return report.close("theory", {"seconds": report.result["seconds"]})


if __name__ == "__main__":
    sys.exit(main())
