"""What dealing shards to many workers costs the driver.

    python -m benchmarks.cluster            # seconds

A million prompts in shards of 64 are dealt to 32 to 1,024 simulated workers, each of 4,000 tokens a second. Their time
is simulated; the driver's work is that of a run, without Ray's calls. Prints a table, writes
benchmarks/results/cluster.json, and leaves with 1 when a figure that must hold does not.
"""

import argparse
import sys
from dataclasses import asdict

from rich.table import Table

from benchmarks.cluster.simulation import Simulated, simulate
from benchmarks.report import Report

WORKERS = (32, 64, 128, 256, 512, 1024)
MEMORY = 16.0  # MiB, at most, that dealing holds
CPU = 2e-3  # seconds, at most, of the driver's CPU a shard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    arguments = parser.parse_args()
    report = Report()
    table = Table(title=f"{arguments.prompts:,} prompts")
    for column in ("workers", "shards/s", "of the workers' time", "driver CPU", "CPU a shard", "memory"):
        table.add_column(column, justify="right")
    rows = [simulate(workers=workers, prompts=arguments.prompts) for workers in WORKERS]
    for row in rows:
        table.add_row(*_cells(row, report))
    report.console.print(table)
    report.result = {"simulation": [asdict(row) for row in rows]}
    return report.close("cluster", {})


def _cells(row: Simulated, report: Report) -> list[str]:
    each = row.cpu_seconds / row.shards
    return [
        f"{row.workers:,}",
        f"{row.shards / row.seconds:,.1f}",
        f"{row.ideal / row.seconds:.3f}",
        f"{row.cpu_seconds:.1f} s",
        report.mark("CPU a shard", f"{each * 1e3:.2f} ms", each <= CPU),
        report.mark("memory", f"{row.memory_mib:.1f} MiB", row.memory_mib <= MEMORY),
    ]


if __name__ == "__main__":
    sys.exit(main())
