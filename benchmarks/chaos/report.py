"""The table, the JSON and the verdict."""

import argparse
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.corruption import Harm
from benchmarks.chaos.kills import AIMED, Tally
from benchmarks.machine import machine, write_result


def report(console: Console, result: dict[str, Any], tally: Tally, harm: Harm, arguments: argparse.Namespace) -> int:
    """Print and write everything; 1 when a figure that must hold does not."""
    least = 0 if arguments.short else 5
    hit = tally.by_stage()
    mismatches = sum(len(files) for files in tally.mismatches.values())
    rows: list[tuple[str, str, str, bool]] = [
        ("kills", str(len(tally.kills)), f">= {arguments.kills}", len(tally.kills) >= arguments.kills)
    ]
    rows += [(f"  in {kind}", str(hit[kind]), f">= {least}" if least else "", hit[kind] >= least) for kind in AIMED]
    rows += [(f"  in {kind}", str(count), "", True) for kind, count in sorted(hit.items()) if kind not in AIMED]
    by_process = Counter(kill.process for kill in tally.kills)
    rows += [(f"  of {process}", str(count), "", True) for process, count in sorted(by_process.items())]
    rows += [
        ("the command went on", str(tally.survived), "", True),
        ("attempts that failed by themselves", str(tally.failed), "", True),
        ("resumes", str(tally.resumes), "", True),
        ("attempts that waited for a killed server, ended by hand", str(tally.serverless), "", True),
        ("attempts that hung", str(tally.hung), "0", not tally.hung),
        ("published files looked after", str(tally.published), "", True),
        ("recomputed (published files written again)", str(len(tally.rewritten)), "0", not tally.rewritten),
        ("optimizer steps done again", str(tally.steps_again), "", True),
        ("mismatches (files)", str(mismatches), "0", not mismatches),
        ("orphans", str(tally.orphans.total()), "0", not tally.orphans),
        ("corruptions", str(harm.trials.total()), "", True),
        ("  detected", str(harm.count("detected")), "", True),
        ("  harmless", str(harm.count("harmless")), "", True),
        ("  undetected", str(harm.count("undetected")), "0", not harm.count("undetected")),
    ]
    table = Table(title="chaos")
    for name in ("figure", "value", "must be"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for name, value, wanted, good in rows:
        table.add_row(name, value if good else f"[red]{value}[/]", wanted)
    console.print(table)
    for problem in tally.problems + tally.rewritten + harm.undetected:
        console.print(problem, markup=False)
    for run, files in tally.mismatches.items():
        for name, what in files.items():
            console.print(f"{run}: {name}: {what}", markup=False)
    console.print(machine())
    missed = [name.strip() for name, _, _, good in rows if not good]
    result |= {"figures": {name.strip(): value for name, value, _, _ in rows}, "missed": missed}
    result["kills"] = asdict(tally)
    result["corruption"] = {" / ".join(what): count for what, count in sorted(harm.trials.items())}
    console.print(f"written: {write_result('chaos', result)}")
    return 1 if missed else 0
