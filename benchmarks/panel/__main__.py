"""Is the panel worth trusting when its judges' endpoint fails, answers wrongly and is slow?

    python -m benchmarks.panel            # about ten minutes
    python -m benchmarks.panel --short    # a smaller world, one repetition; a slow test

Five judges with known true preferences behind a local endpoint: a fifth of all calls ends in HTTP 500, 429 or 400, a
time-out, a reply that drips, a gateway's error in an HTTP 200, a page of HTML, a wrong Content-Encoding, no verdict, or
a verdict where none belongs; some calls take 40 times as long. Shown: no vote is invented; no comparison that was
answered is asked again across a kill -9 and resume; the stage takes hardly longer than its slowest annotator alone; the
report counts the faults that were injected. Prints a table, writes benchmarks/results/panel.json, and leaves with 1
when one of these does not hold.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, write_result
from benchmarks.panel.checks import (
    Calls,
    asked_again,
    errors,
    expected_outcomes,
    fault_counts,
    invented,
    reported_faults,
)
from benchmarks.panel.endpoint import HANG, LATENCY
from benchmarks.panel.world import JUDGES, World
from flows.operations.temporary_server import free_port
from storage.manifest import read_manifest

console = Console()
LINGER = HANG + 0.5  # seconds after a pass until the endpoint has ended every call
MOST = 1.15  # times the slowest annotator alone


class Bench:
    """Passes of the label command against one endpoint process."""

    def __init__(self, world: World, log: Path) -> None:
        self.world, self._log = world, log

    def calls(self) -> Calls:
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def begin(self, name: str, judges: list[str], *, local: bool = True) -> subprocess.Popen[bytes]:
        spec = self.world.folder / f"{name}.yaml"
        if not spec.exists():
            self.world.spec(name, judges, local=local)
        environment = os.environ | {"NO_PROXY": "127.0.0.1"}
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.run", str(spec)], env=environment, stdout=subprocess.DEVNULL
        )

    def reset(self) -> None:
        time.sleep(LINGER)  # calls that nobody waits for end, and belong to the pass before
        self._log.unlink(missing_ok=True)
        self._log.touch()
        httpx.post(f"http://127.0.0.1:{self.world.port}/reset", trust_env=False).raise_for_status()

    def whole(self, name: str, judges: list[str], *, local: bool = True) -> float:
        """Seconds of an undisturbed stage."""
        self.reset()
        if self.begin(name, judges, local=local).wait() != 0:
            raise RuntimeError(f"the pass {name} failed")
        time.sleep(LINGER)
        return read_manifest(self.world.folder / name).seconds

    def killed(self, name: str, share: float, of: int) -> float:
        """Kill a pass when `share` of its `of` calls have ended, then resume it; returns the moment of the kill."""
        self.reset()
        process = self.begin(name, JUDGES)
        while len(self.calls()) < share * of:
            if process.poll() is not None:
                raise RuntimeError("the pass ended before it was killed")
            time.sleep(0.02)
        moment = time.time()
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(LINGER)
        if self.begin(name, JUDGES).wait() != 0:
            raise RuntimeError("the resumed pass failed")
        time.sleep(LINGER)
        return moment


@contextmanager
def bench(folder: Path, prompts: int) -> Iterator[Bench]:
    port, log = free_port(), folder / "calls.jsonl"
    world = World(folder, prompts, port)
    world.make()
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.panel.endpoint", str(port), str(log)])
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.post(f"http://127.0.0.1:{port}/reset", trust_env=False)
                break
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield Bench(world, log)
    finally:
        server.terminate()
        server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    prompts, repetitions = (12, 1) if arguments.short else (60, arguments.repetitions)
    folder = Path(tempfile.mkdtemp(prefix="irepo-panel-"))
    try:
        with bench(folder, prompts) as passes:
            return report(measure(passes, repetitions), short=arguments.short)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(passes: Bench, repetitions: int) -> dict[str, Any]:
    judges = JUDGES if repetitions > 1 else [max(LATENCY, key=lambda judge: LATENCY[judge])]
    alone = {judge: [passes.whole(f"alone-{judge}-0", [judge], local=False)] for judge in judges}
    slowest = max(alone, key=lambda judge: alone[judge][0])
    together: list[float] = []
    for number in range(repetitions):
        if number:
            alone[slowest].append(passes.whole(f"alone-{slowest}-{number}", [slowest], local=False))
        together.append(passes.whole(f"panel-{number}", JUDGES))
    calls = passes.calls()
    folder = passes.world.folder / f"panel-{repetitions - 1}"
    expected = expected_outcomes(passes.world, calls)
    result: dict[str, Any] = {
        "comparisons": len(passes.world.comparisons()),
        "calls": len(calls),
        "faulty_calls": sum(call["fault"] is not None for call in calls),
        "seconds_together": together,
        "seconds_alone": alone,
        "slowest": slowest,
        "invented": dict(invented(passes.world, calls, folder)),
        "faults_injected": fault_counts(calls),
        "faults_reported": reported_faults(folder),
        "errors_expected": {
            judge: sum(outcome == "error" for (each, *_), outcome in expected.items() if each == judge)
            for judge in JUDGES
        },
        "errors_reported": {judge: count for judge, count in errors(folder).items() if judge in JUDGES},
    }
    killed = passes.killed("killed", 0.4, len(calls))
    calls = passes.calls()
    known, under_way = asked_again(calls, killed)
    result |= {
        "asked_again_known": known,
        "asked_again_under_way": under_way,
        "invented_after_kill": dict(invented(passes.world, calls, passes.world.folder / "killed")),
    }
    return result


def report(result: dict[str, Any], *, short: bool) -> int:
    together = statistics.median(result["seconds_together"])
    alone = statistics.median(result["seconds_alone"][result["slowest"]])
    ratio = together / alone
    injected, reported = result["faults_injected"], result["faults_reported"]
    figures: list[tuple[str, str, str, bool]] = [
        ("judges x comparisons", f"{len(JUDGES)} x {result['comparisons']}", "", True),
        ("calls, of them faulty", f"{result['calls']}, {result['faulty_calls'] / result['calls']:.1%}", "", True),
        ("votes that the judge did not cast", str(result["invented"] or 0), "0", not result["invented"]),
        (
            "  after kill -9 and resume",
            str(result["invented_after_kill"] or 0),
            "0",
            not result["invented_after_kill"],
        ),
        (
            "answered comparisons asked again",
            str(result["asked_again_known"]),
            "0",
            result["asked_again_known"] == 0,
        ),
        ("  under way at the kill, asked again", str(result["asked_again_under_way"]), "", True),
        ("faults of transport injected", str(sum(sum(each.values()) for each in injected.values())), "", True),
        ("  reported as injected, by judge and kind", str(injected == reported), "True", injected == reported),
        (
            "error votes expected, reported",
            f"{sum(result['errors_expected'].values())}, {sum(result['errors_reported'].values())}",
            "equal",
            result["errors_expected"] == result["errors_reported"],
        ),
        (f"seconds of the slowest judge alone ({result['slowest']})", f"{alone:.1f}", "", True),
        ("seconds of the panel", f"{together:.1f}", "", True),
        ("  times the slowest", f"{ratio:.2f}", "" if short else f"<= {MOST}", short or ratio <= MOST),
    ]
    table = Table(title="panel")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("must be", justify="right")
    for name, value, wanted, good in figures:
        table.add_row(name, value if good else f"[red]{value}[/]", wanted)
    console.print(table)
    for judge, seconds in result["seconds_alone"].items():
        console.print(f"{judge} alone: {', '.join(f'{each:.1f}' for each in seconds)} s")
    if injected != reported:
        console.print({"injected": injected, "reported": reported})
    console.print(machine())
    missed = [name.strip() for name, _, _, good in figures if not good]
    console.print(f"written: {write_result('panel', result | {'ratio': ratio, 'missed': missed})}")
    if missed:
        console.print(f"[red]missed: {', '.join(missed)}[/]")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
