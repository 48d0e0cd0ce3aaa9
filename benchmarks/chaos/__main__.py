"""Runs under kills and damaged files, and the cost of durability.

    python -m benchmarks.chaos --kills 50 --seed 0      # about half an hour on two idle cores
    python -m benchmarks.chaos --kills 8 --short        # a few minutes; also a slow test

A small run (the real command, vLLM, a random policy) is killed with SIGKILL at random moments of its stages: the flow,
a worker, the temporary server, or every process at once. The same command is given again until the run is done, and
its folder is compared byte for byte with that of an undisturbed run. Then bits of finished files are flipped and files
are cut, and what durability costs is timed against bare stage functions. Prints a table, writes
benchmarks/results/chaos.json, and leaves with 1 when a figure that must hold does not.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from rich.console import Console

from benchmarks.chaos.corruption import corrupt_run
from benchmarks.chaos.cost import measure
from benchmarks.chaos.kills import Campaign, undisturbed
from benchmarks.chaos.report import report
from benchmarks.chaos.victim import Victim

console = Console()
TRIALS = 1000  # of corruption
_RUNS_AT_MOST = 6  # disturbed runs that may be added to reach every stage often enough


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="one round, one disturbed run, no cost")
    parser.add_argument("--no-cost", action="store_true", help="leave out what durability costs")
    parser.add_argument("--repetitions", type=int, default=3, help="of each arm of the cost")
    parser.add_argument("--keep", action="store_true", help="keep the run folders and say where they are")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="irepo-chaos-"))
    try:
        return run(home, arguments)
    finally:
        if arguments.keep:
            console.print(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)


def run(home: Path, arguments: argparse.Namespace) -> int:
    victim = Victim(home, rounds=1, epochs=2) if arguments.short else Victim(home)
    victim.make()
    with ThreadPoolExecutor(1) as beside:
        console.print("an undisturbed run")
        reference = beside.submit(undisturbed, victim)
        seconds = reference.result().by_stage
        campaign = Campaign(victim, seconds, reference, seed=arguments.seed)
        clock = time.monotonic()
        disturb(campaign, arguments.kills, short=arguments.short)
    result: dict[str, Any] = {
        "arguments": vars(arguments),
        "undisturbed": {"seconds": reference.result().seconds, "by_stage": reference.result().by_stage},
        "kills_seconds": round(time.monotonic() - clock, 1),
    }
    finished = reference.result().run
    harm = corrupt_run(finished, campaign.checkpointed, home / "harmed", TRIALS, seed=arguments.seed)
    cost = None
    if not arguments.short and not arguments.no_cost:
        console.print("the cost of durability")
        cost = measure(victim, arguments.repetitions)
    return report(console, result, campaign.tally, harm, cost, aimed=campaign.aimed)


def disturb(campaign: Campaign, kills: int, *, short: bool) -> None:
    """Disturbed runs of about 17 kills each; the long version adds runs until every stage was hit five times."""
    least = 1 if short else 5
    aims = campaign.aims(kills, least=least)
    parts = 1 if short else -(-kills // 17)
    for number in range(1, parts + 1):
        left = campaign.run(number, aims[number - 1 :: parts])
        console.print(f"disturbed run {number}: {len(campaign.tally.kills)} kills so far, not reached: {left}")
    for number in range(parts + 1, parts + 1 + _RUNS_AT_MOST):
        hit = campaign.tally.by_stage()
        missing = [] if short else [kind for kind in campaign.aimed for _ in range(least - hit[kind])]
        missing += campaign.aims(max(0, kills - len(campaign.tally.kills) - len(missing)), least=0)
        if not missing:
            return
        campaign.run(number, missing)
        console.print(f"disturbed run {number}: {len(campaign.tally.kills)} kills so far")


if __name__ == "__main__":
    sys.exit(main())
