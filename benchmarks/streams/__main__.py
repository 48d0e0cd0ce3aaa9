"""Ten times the prompts: does every stage take about ten times as long, in about the same memory?

    python -m benchmarks.streams                    # 1,000 and 10,000 prompts
    python -m benchmarks.streams --prompts 500

Made-up prompts of about 60 words, four responses each; no model works (benchmarks/streams/stages.py). Every stage is a
process of its own. Prints a table, writes benchmarks/results/streams.json, and leaves with 1 when a stage takes more
than 10.5 times the CPU time or 1.3 times the memory. What the train stage reads is reported and not judged.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, write_result
from benchmarks.streams.stages import STAGES, make_prompts
from conf.compose import PROJECT

TIMES, TIME, MEMORY = 10, 10.5, 1.3
_MIB = 1 << 20

console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--policy", type=Path, default=PROJECT / "artifacts" / "demo-0" / "policy")
    parser.add_argument("--until", choices=list(STAGES), help="leave out the stages after this one")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="irepo-streams-"))
    try:
        sizes = (arguments.prompts, TIMES * arguments.prompts)
        names = list(STAGES)
        names = names[: names.index(arguments.until or names[-1]) + 1]
        found = {size: measure(home / str(size), size, names, arguments.policy.resolve()) for size in sizes}
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return report(*found.values(), sizes=sizes)


def measure(folder: Path, prompts: int, stages: list[str], policy: Path) -> dict[str, dict[str, float]]:
    """Figures of the stages, one after the other."""
    folder.mkdir(parents=True)
    make_prompts(folder / "prompts.jsonl", prompts)
    found = {}
    for stage in stages:
        command = [sys.executable, "-m", "benchmarks.streams.stages", stage, str(folder), str(prompts), str(policy)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{stage} of {prompts} prompts failed:\n{done.stderr[-4000:]}")
        found[stage] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(small: dict[str, dict[str, float]], large: dict[str, dict[str, float]], *, sizes: tuple[int, int]) -> int:
    """Print and write; 1 when a stage grows faster than it may."""
    table = Table(title=f"{sizes[0]:,} and {sizes[1]:,} prompts")
    for column in ("stage", "CPU seconds", "times", "wall, times", "MiB at most", "times", "above start, times"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    missed = []
    for stage, first in small.items():
        second: dict[str, Any] = large[stage]
        time, memory = second["cpu"] / first["cpu"], second["peak"] / first["peak"]
        good = (time <= TIME and memory <= MEMORY) or stage.startswith("train")
        if not good:
            missed.append(stage)
        above = (second["peak"] - second["before"]) / max(first["peak"] - first["before"], 1)
        table.add_row(
            stage,
            f"{first['cpu']:.2f} -> {second['cpu']:.2f}",
            f"{time:.1f}" if time <= TIME else f"[red]{time:.1f}[/]",
            f"{second['wall'] / first['wall']:.1f}",
            f"{first['peak'] / _MIB:.0f} -> {second['peak'] / _MIB:.0f}",
            f"{memory:.2f}" if memory <= MEMORY else f"[red]{memory:.2f}[/]",
            f"{above:.1f}",
        )
    console.print(table)
    console.print(machine(), f"load now: {os.getloadavg()[0]:.1f}")
    result = {"sizes": sizes, "small": small, "large": large, "missed": missed}
    console.print(f"written: {write_result('streams', result).relative_to(Path.cwd())}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
