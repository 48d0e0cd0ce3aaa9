"""A whole round of the demo: irepo's flow, its bare stage functions, and a plain script of today's parts.

    python -m benchmarks.round                      # about a quarter of an hour on two idle cores
    python -m benchmarks.round --repetitions 1

A round: 256 prompts, four responses each, seven annotators, three epochs of training, held-out evaluation. The script
(benchmarks/round/plain.py) starts vLLM, a labelling script and TRL in a process a stage. The arms take turns; a run's
first round, which pays for starting, is left out of all of them. What orchestration costs is judged by CPU seconds of
all processes, Prefect's server included: the difference of two wall clocks says nothing on a machine with other work.
Prints a table, writes benchmarks/results/round.json, and leaves with 1 when a figure that must hold does not.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, write_result
from benchmarks.round.arms import STAGES, Rounds, flow, plain
from conf.compose import PROJECT

TIMES, PERCENT, SECONDS = 3.0, 3.0, 3.0  # least speed-up over the script; largest share and seconds of orchestration

console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each run; the first does not count")
    parser.add_argument("--repetitions", type=int, default=3, help="of each arm")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (PROJECT / "artifacts" / f"demo-{arguments.seed}" / "policy" / "config.json").is_file():
        words = ["showcase=demo", f"seed={arguments.seed}"]
        subprocess.run([sys.executable, "-m", "flows.warmup", *words], cwd=PROJECT, check=True)
    arms: dict[str, Callable[[Path], Rounds]] = {
        "flow": lambda home: flow("durable", home, arguments.rounds, arguments.seed),
        "bare stages": lambda home: flow("bare", home, arguments.rounds, arguments.seed),
        "script": lambda home: plain(home, arguments.rounds, arguments.seed),
    }
    found = {name: Rounds() for name in arms}
    loads = []
    for repetition in range(arguments.repetitions):
        for name in list(arms) if repetition % 2 == 0 else reversed(arms):
            home = Path(tempfile.mkdtemp(prefix="irepo-round-"))
            try:
                found[name].extend(arms[name](home))
            finally:
                shutil.rmtree(home, ignore_errors=True)
            loads.append(round(os.getloadavg()[0], 1))
    return report(found, loads)


def report(found: dict[str, Rounds], loads: list[float]) -> int:
    """Print and write. Returns 1 if a promised figure is missed, else 0."""
    table = Table(title="seconds a round, median (range)")
    for column in ("", *found):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("wall", *(_spread(rounds.wall) for rounds in found.values()))
    table.add_row("CPU, all processes", *(_spread(rounds.cpu) for rounds in found.values()))
    for stage in STAGES:
        table.add_row(f"  {stage}", *(_spread(rounds.stages.get(stage, [])) for rounds in found.values()))
    table.add_row("  between stages", *(_spread(rounds.between) for rounds in found.values()))
    console.print(table)
    ours, bare, script = (found[name] for name in ("flow", "bare stages", "script"))
    wall, between = statistics.median(ours.wall), statistics.median(ours.between)
    times = statistics.median(script.wall) / wall
    added = statistics.median(ours.cpu) - statistics.median(bare.cpu)
    percent = 100 * added / statistics.median(bare.cpu)
    figures = {
        "times faster than the script": (times, times >= TIMES, f">= {TIMES:g}"),
        "the same, in CPU seconds": (statistics.median(script.cpu) / statistics.median(ours.cpu), True, ""),
        "orchestration: flow minus bare stages, CPU seconds": (added, added <= SECONDS, f"<= {SECONDS:g}"),
        "the same, percent": (percent, percent <= PERCENT, f"<= {PERCENT:g}"),
        "the flow outside of its stages, wall": (between, between <= SECONDS, f"<= {SECONDS:g}"),
        "the same, percent (waits for cores that others use)": (100 * between / wall, True, ""),
        "flow minus bare stages, wall": (wall - statistics.median(bare.wall), True, ""),
    }
    verdict = Table()
    for column in ("figure", "found", "must be"):
        verdict.add_column(column)
    for name, (value, good, wanted) in figures.items():
        verdict.add_row(name, f"{value:.2f}" if good else f"[red]{value:.2f}[/]", wanted)
    console.print(verdict)
    missed = [name for name, (_, good, _) in figures.items() if not good]
    result = {
        "arms": {name: asdict(rounds) for name, rounds in found.items()},
        "figures": {name: value for name, (value, _, _) in figures.items()},
        "loads": loads,
        "missed": missed,
    }
    console.print(machine(), f"load after each run: {loads}")
    console.print(f"written: {write_result('round', result).relative_to(Path.cwd())}")
    return 1 if missed else 0


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-"


if __name__ == "__main__":
    sys.exit(main())
