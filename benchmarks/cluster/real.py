"""Runs on a real Ray cluster of this machine: what is measured, and what must hold."""

import os
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from benchmarks.cluster.equal import Equality, compare
from benchmarks.cluster.kills import Tally, disturb
from benchmarks.cluster.nodes import Nodes
from benchmarks.cluster.processes import left
from benchmarks.cluster.speed import ONE_PROCESS, ONE_WORKER, TWO_WORKERS, Speed, SpeedTest
from benchmarks.cluster.victim import NAME, WORKERS, ClusterVictim
from benchmarks.report import Report
from storage.manifest import read_manifest
from tasks.cluster.connection import check_ray
from tasks.cluster.local import KEEP_LOOPBACK

SPEED_UP = 1.5  # at least, of two workers against one, on two cores
REPETITIONS = 3


def play_on_cluster(home: Path, report: Report, *, engine: str, kills: int, seed: int, short: bool) -> None:
    check_ray()
    os.environ |= KEEP_LOOPBACK  # before Ray is imported
    alone = ClusterVictim(home, rounds=1 if short else 2, engine=engine)
    alone.make()
    say = report.console.print
    say("one process")
    reference, reference_seconds = _play(alone, "alone")
    clock = time.monotonic()
    nodes = Nodes(WORKERS)
    up = round(time.monotonic() - clock, 1)
    say(f"the cluster has started in {up} s: {nodes.address}")
    try:
        victim = replace(alone, address=nodes.address)
        run, seconds = _play(victim, "cluster")
        orphans = left(_mark(victim, "cluster"), of_cluster=nodes.mark)
        equality, workers = compare(reference, run), _workers(run)
        say(f"the same run on the cluster: {seconds} s, {len(equality.differing)} differences")
        speed = None if short else SpeedTest(victim).measure(REPETITIONS)
        tally = disturb(victim, nodes, reference, kills, seed=seed, say=say)
    finally:
        nodes.close()
    daemons = left(nodes.mark, of_cluster=nodes.mark)
    report.result |= {
        "ray": version("ray"),
        "seconds of the run": {"one process": reference_seconds, "cluster": seconds, "cluster start": up},
        "equality": vars(equality),
        "tally": vars(tally),
        "speed": None if speed is None else vars(speed),
    }
    table = Table(title=f"a head and {WORKERS} nodes, Ray {version('ray')}, engine {engine}")
    for column in ("figure", "required", "measured"):
        table.add_column(column)
    equal_rows(table, report, equality, workers, orphans)
    table.add_row("seconds of the run: one process, cluster", "", f"{reference_seconds:.1f}, {seconds:.1f}")
    table.add_row("seconds until the cluster has started", "", f"{up:.1f}")
    if speed is not None:
        speed_rows(table, report, speed)
    kill_rows(table, report, tally, kills)
    table.add_row("processes left by the cluster", "0", report.mark("cluster orphans", str(len(daemons)), not daemons))
    say(table)
    for line in [*equality.differing, *tally.differing, *tally.orphans, *tally.refused, *orphans, *daemons]:
        say(line, markup=False)


def _play(victim: ClusterVictim, name: str) -> tuple[Path, float]:
    """A run that nothing disturbs: its folder and its seconds."""
    runs, log = victim.home / name, victim.home / f"{name}.log"
    clock = time.monotonic()
    code = victim.start(runs, _mark(victim, name), log).wait()
    if code:
        raise RuntimeError(f"the run failed with code {code}:\n{log.read_text(encoding='utf-8')[-4000:]}")
    return runs / NAME, round(time.monotonic() - clock, 1)


def _mark(victim: ClusterVictim, name: str) -> str:
    return f"{victim.home.name}/{name}"


def _workers(run: Path) -> int:
    """The most workers that published shards of one stage."""
    summaries = [read_manifest(path.parent, check_files=False).summary for path in run.rglob("generate/manifest.json")]
    return max(len(summary.get("tokens_per_second_by_worker", ())) for summary in summaries)


def equal_rows(table: Table, report: Report, equality: Equality, workers: int, orphans: list[str]) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(equality.kinds.items()))
    table.add_row("files compared with one process's", "", kinds)
    good = not equality.differing and {"responses", "votes", "preferences", "weights"} <= equality.kinds.keys()
    table.add_row("of them with other bytes", "0", report.mark("equal bytes", str(len(equality.differing)), good))
    table.add_row("workers that sampled", str(WORKERS), report.mark("workers", str(workers), workers == WORKERS))
    table.add_row("processes that outlived the run", "0", report.mark("orphans", str(len(orphans)), not orphans))


def speed_rows(table: Table, report: Report, speed: Speed) -> None:
    for arm, seconds in speed.start.items():
        table.add_row(f"seconds until the first shards, {arm}", "", f"{seconds:.1f}")
    for arm, each in speed.seconds.items():
        table.add_row(f"seconds of the same shards, {arm}", "", ", ".join(f"{seconds:.1f}" for seconds in each))
    ratio = speed.ratio(ONE_WORKER, TWO_WORKERS)
    table.add_row(
        "times as fast: two workers against one",
        f">= {SPEED_UP}",
        report.mark("speed-up", f"{ratio:.2f}", ratio >= SPEED_UP),
    )
    table.add_row("one worker against one process", "", f"{speed.ratio(ONE_PROCESS, ONE_WORKER):.2f}")
    table.add_row(
        "bytes equal in all arms", "yes", report.mark("equal arms", "yes" if speed.equal else "no", speed.equal)
    )


def kill_rows(table: Table, report: Report, tally: Tally, kills: int) -> None:
    done = tally.kills.total()
    by_kind = ", ".join(f"{count} {what}" for what, count in sorted(tally.kills.items()))
    table.add_row("kills", str(kills), report.mark("kills", f"{done} ({by_kind})", done >= kills))
    table.add_row("after a stage's first shard; in runs", "", f"{tally.mid_stage}; {tally.runs}")
    table.add_row("commands given again", "", str(tally.resumes))
    for name, number in (
        ("files with other bytes than one process's", len(tally.differing)),
        ("processes that outlived a command", len(tally.orphans)),
        ("commands that ended although their driver lived", len(tally.refused)),
        ("commands that hung", tally.hung),
    ):
        table.add_row(name, "0", report.mark(name, str(number), number == 0))
    table.add_row("seconds of the disturbed runs", "", f"{tally.seconds:.0f}")
