"""The table of simulated workers."""

from dataclasses import asdict

from rich.table import Table

from benchmarks.cluster.simulation import Simulated, simulate
from benchmarks.report import Report

WORKERS = (32, 64, 128, 256, 512, 1024)
MEMORY = 16.0  # MiB, at most, that dealing holds
CPU = 2e-3  # seconds, at most, of the driver's CPU a shard


def simulate_many(report: Report, *, prompts: int) -> None:
    table = Table(title=f"{prompts:,} prompts, simulated workers")
    for column in ("workers", "shards/s", "of the workers' time", "driver CPU", "CPU a shard", "memory"):
        table.add_column(column, justify="right")
    rows = [simulate(workers=workers, prompts=prompts) for workers in WORKERS]
    for row in rows:
        table.add_row(*_cells(row, report))
    report.console.print(table)
    report.result["simulation"] = [asdict(row) for row in rows]


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
