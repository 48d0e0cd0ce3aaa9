"""The table, the JSON and the verdict."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.corruption import Harm
from benchmarks.chaos.cost import PERCENT, SECONDS, Cost
from benchmarks.chaos.kills import Tally
from benchmarks.machine import machine, write_result


class Figure(NamedTuple):
    """A row of the table; `wanted` is empty where nothing is promised."""

    name: str
    value: str
    wanted: str = ""
    good: bool = True


def report(
    console: Console, result: dict[str, Any], tally: Tally, harm: Harm, cost: Cost | None, *, aimed: Sequence[str]
) -> int:
    """Print and write everything. aimed: what kills target. Returns 1 if a promised figure is missed, else 0."""
    arguments = result["arguments"]
    figures = _kills(tally, arguments["kills"], aimed, least=0 if arguments["short"] else 5)
    figures += _outcomes(tally) + _corruption(harm)
    if cost is not None:
        figures += _cost(cost)
    table = Table(title="chaos")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("must be", justify="right")
    for figure in figures:
        table.add_row(figure.name, figure.value if figure.good else f"[red]{figure.value}[/]", figure.wanted)
    console.print(table)
    for problem in tally.problems + tally.rewritten + harm.undetected:
        console.print(problem, markup=False)
    for run, files in tally.mismatches.items():
        for name, what in files.items():
            console.print(f"{run}: {name}: {what}", markup=False)
    console.print(machine())
    missed = [figure.name.strip() for figure in figures if not figure.good]
    result |= {"figures": {figure.name.strip(): figure.value for figure in figures}, "missed": missed}
    result["disturbed"] = asdict(tally)
    result["corruption"] = {" / ".join(what): count for what, count in sorted(harm.trials.items())}
    result["cost"] = None if cost is None else asdict(cost)
    console.print(f"written: {write_result('chaos', result)}")
    if missed:
        console.print(f"[red]missed: {', '.join(missed)}[/]")
    return 1 if missed else 0


def _kills(tally: Tally, wanted: int, aimed: Sequence[str], *, least: int) -> list[Figure]:
    hit = tally.by_stage()
    figures = [Figure("kills", str(len(tally.kills)), f">= {wanted}", len(tally.kills) >= wanted)]
    promise = f">= {least}" if least else ""
    figures += [Figure(f"  in {kind}", str(hit[kind]), promise, hit[kind] >= least) for kind in aimed]
    figures += [Figure(f"  in {kind}", str(count)) for kind, count in sorted(hit.items()) if kind not in aimed]
    by_process = Counter(kill.process for kill in tally.kills)
    return figures + [Figure(f"  of {process}", str(count)) for process, count in sorted(by_process.items())]


def _outcomes(tally: Tally) -> list[Figure]:
    mismatches = sum(len(files) for files in tally.mismatches.values())
    orphans = [Figure(f"  {role}", str(count)) for role, count in sorted(tally.orphans.items())]
    return [
        Figure("disturbed runs", str(len({kill.run for kill in tally.kills}))),
        Figure("resumes", str(tally.resumes)),
        Figure("the command went on", str(tally.survived)),
        Figure("attempts that failed by themselves", str(tally.failed)),
        Figure("attempts that hung", str(tally.hung), "0", not tally.hung),
        Figure("published files looked after", str(tally.published)),
        Figure("recomputed (published files written again)", str(len(tally.rewritten)), "0", not tally.rewritten),
        Figure("optimizer steps done again", str(tally.steps_again)),
        Figure("mismatches (files)", str(mismatches), "0", not mismatches),
        Figure("orphans", str(tally.orphans.total()), "0", not tally.orphans),
        *orphans,
    ]


def _corruption(harm: Harm) -> list[Figure]:
    undetected = harm.count("undetected")
    return [
        Figure("corruptions", str(harm.trials.total())),
        Figure("  detected", str(harm.count("detected"))),
        Figure("  harmless", str(harm.count("harmless"))),
        Figure("  undetected", str(undetected), "0", not undetected),
    ]


def _cost(cost: Cost) -> list[Figure]:
    return [
        Figure("seconds a round, the flow", _spread(cost.durable)),
        Figure("seconds a round, bare stage functions", _spread(cost.bare)),
        Figure("  durability, seconds", f"{cost.seconds:+.2f}", f"<= {SECONDS:g}", cost.seconds <= SECONDS),
        Figure("  durability, percent", f"{cost.percent:+.1f}", f"<= {PERCENT:g}", cost.percent <= PERCENT),
    ]


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
