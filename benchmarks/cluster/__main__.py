"""Engines on a Ray cluster: equal bytes, kills, what starting costs, two workers against one, and many workers.

    python -m benchmarks.cluster                    # about ten minutes on two cores
    python -m benchmarks.cluster --short            # a few minutes: one round, three kills, no speed
    python -m benchmarks.cluster --simulation       # seconds

A cluster of a head and two nodes of one CPU each, on this machine's loopback. Two rounds of `flows.iterate` (a random
policy, few prompts) are played with one engine, then with two workers of the cluster, then with kills: SIGKILL to a
worker, to all processes of a node (another node follows), or to the driver, whose command is then given again. All
files of all stages are compared byte for byte.

Then a million prompts in shards of 64 are dealt to 32 to 1,024 simulated workers, each of 4,000 tokens a second. Their
time is simulated; the driver's work is that of a run, without Ray's calls.

Prints tables, writes benchmarks/results/cluster.json, and leaves with 1 when a figure that must hold does not.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from benchmarks.cluster.real import play_on_cluster
from benchmarks.cluster.simulated import simulate_many
from benchmarks.report import Report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulation", action="store_true", help="only the simulated workers")
    parser.add_argument("--prompts", type=int, default=1_000_000, help="of the simulation")
    parser.add_argument("--kills", type=int, help="12; with --short, 3")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--short", action="store_true", help="one round, fewer kills, no speed")
    parser.add_argument("--engine", default="transformers", help="a file of conf/engine (vllm-small)")
    parser.add_argument("--keep", action="store_true", help="keep the run folders and say where they are")
    arguments = parser.parse_args()
    report, clock = Report(), time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="irepo-cluster-"))
    try:
        if not arguments.simulation:
            play_on_cluster(
                home,
                report,
                engine=arguments.engine,
                kills=(3 if arguments.short else 12) if arguments.kills is None else arguments.kills,
                seed=arguments.seed,
                short=arguments.short,
            )
        simulate_many(report, prompts=arguments.prompts)
    finally:
        if arguments.keep:
            report.console.print(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    report.result |= {"arguments": vars(arguments), "seconds": round(time.monotonic() - clock, 1)}
    return report.close("cluster", {"seconds": report.result["seconds"]})


if __name__ == "__main__":
    sys.exit(main())
