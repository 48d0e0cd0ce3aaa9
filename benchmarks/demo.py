"""The demo's quality on several seeds, and its time: does a run of `make run` do what docs/demo.md says?

    python -m benchmarks.demo                 # seeds 0, 1, 2; about four minutes each on two idle cores
    python -m benchmarks.demo --seeds 0

Every seed is run from nothing (its own artifacts and run folder are made anew) as a whole process. Prints a table,
writes benchmarks/results/demo.json, and leaves with 1 when a figure misses what the demo promises.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, write_result

#: name of a figure -> (lowest, highest) value allowed after round 3
PROMISES: dict[str, tuple[float, float]] = {
    "win vs initial, truth": (0.72, 1.0),
    "win vs initial, held-out": (0.78, 1.0),
    "correct, gain": (0.10, 1.0),
    "rude": (0.0, 0.06),
    "garbage, gain": (-1.0, 0.03),
    "finished": (0.99, 1.0),
    "KL (nats)": (0.5, 3.5),
    "evaluation, share of rounds' time": (0.0, 0.25),
}


def run_seed(seed: int, words: list[str]) -> dict[str, Any]:
    """Run the demo from an empty folder in a process of its own. Returns wall seconds and the records of its rounds."""
    run = Path("runs") / f"benchmark-demo-{seed}"
    for folder in (run, Path("artifacts") / f"demo-{seed}"):
        shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "flows.iterate", "run=demo", f"seed={seed}", f"name={run.name}", *words]
    subprocess.run(command, check=True)
    return {"seconds": time.monotonic() - started, "rounds": json.loads((run / "rounds.json").read_text())}


def evaluation_share(rounds: list[dict[str, Any]]) -> float:
    """Share of evaluation in the seconds of all stages, from their manifests, over all rounds after the initial policy.

    The initial policy is left out because it has only an evaluation, which also starts the engine.
    """
    spent = [record["seconds"] for record in rounds[1:]]
    return float(sum(each["evaluate"] for each in spent) / sum(sum(each.values()) for each in spent))


def figures(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """The promised figures, of the last round."""
    first, last = rounds[0]["figures"], rounds[-1]["figures"]
    wins = last["win_rate"]["initial"]
    rates = {name: value["mean"] for name, value in last["rates"].items()}
    before = {name: value["mean"] for name, value in first["rates"].items()}
    return {
        "win vs initial, truth": wins["truth"]["mean"],
        "win vs initial, held-out": wins["held-out"]["mean"],
        "correct, gain": rates["correct"] - before["correct"],
        "rude": rates["rude"],
        "garbage, gain": rates["garbage"] - before["garbage"],
        "finished": last["finish_rate"],
        "KL (nats)": last["kl"]["mean"],
        "evaluation, share of rounds' time": evaluation_share(rounds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", help="further words of the run's configuration")
    arguments = parser.parse_args()
    runs = {seed: run_seed(seed, arguments.overrides) for seed in arguments.seeds}
    results = {seed: figures(run["rounds"]) for seed, run in runs.items()}
    table = Table(title="demo after the last round")
    table.add_column("figure")
    table.add_column("promised")
    for seed in runs:
        table.add_column(f"seed {seed}", justify="right")
    missed = 0
    for name, (low, high) in PROMISES.items():
        cells = []
        for seed in runs:
            good = low <= results[seed][name] <= high
            missed += not good
            cells.append(f"{results[seed][name]:.3f}" if good else f"[red]{results[seed][name]:.3f}[/]")
        table.add_row(name, f"{low:g} to {high:g}", *cells)
    table.add_row("seconds, whole process", "", *(f"{run['seconds']:.0f}" for run in runs.values()))
    console = Console()
    console.print(table)
    console.print(machine())
    path = write_result("demo", {"figures": results, "runs": runs, "missed": missed})
    console.print(f"written: {path.relative_to(Path.cwd())}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
