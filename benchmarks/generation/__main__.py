"""The generate stage against vLLM alone and transformers' generate, and how soon an engine is ready again.

    python -m benchmarks.generation                 # about four minutes on two idle cores

The demo's policy and prompts, four responses each, at most 64 tokens. The stage does what a round does: token ids to
its engine and back, text, log-probabilities, Parquet, digests, the sampler's verification. Arms take turns. Prints a
table, writes benchmarks/results/generation.json, and leaves with 1 when a figure that must hold does not.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from flows.operations.environment import prepare

prepare()

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.generation.arms import Arm, Bare, Stage, Work, transformers_generate  # noqa: E402
from benchmarks.machine import machine, write_result  # noqa: E402
from conf.compose import PROJECT, compose_config  # noqa: E402
from storage.prompts import each_prompt  # noqa: E402
from storage.rows import read_rows  # noqa: E402
from storage.schemas import PROMPTS, table, write_parquet  # noqa: E402

SHARE = 0.95  # least share of vLLM's tokens per second
READY = 1.0  # most seconds until the engine samples from the next policy

console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("overrides", nargs="*", help="further words of the run's configuration")
    arguments = parser.parse_args()
    artifacts = PROJECT / "artifacts" / "demo-0"
    if not (artifacts / "policy" / "config.json").is_file():
        console.print("the demo's policy is not there yet: python -m flows.warmup showcase=demo")
        return 2
    home = Path(tempfile.mkdtemp(prefix="irepo-generation-"))
    try:
        return run(home, artifacts, arguments)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def run(home: Path, artifacts: Path, arguments: argparse.Namespace) -> int:
    config = compose_config(["run=demo", *arguments.overrides])
    source = read_rows(artifacts / "prompts.jsonl")
    rows = list(each_prompt(source, where="prompts", limit=arguments.prompts))
    write_parquet(home / "prompts.parquet", table(rows, PROMPTS))
    work = Work(artifacts / "policy", home / "prompts.parquet", config.engine, config.sampling)
    bare, stage = Bare(work, home), Stage(work, home)
    names = ("stage", "vLLM, same sampling", "vLLM, no seeds, no log-probabilities", "transformers' generate")
    arms = {name: Arm() for name in names}
    arms["transformers' generate"] = Arm()
    try:
        for warm in (stage.sample, lambda arm: bare.sample(arm, "same"), lambda arm: bare.sample(arm, "plain")):
            warm(Arm())
        turns: list[Any] = [
            lambda: stage.sample(arms[names[0]]),
            lambda: bare.sample(arms[names[1]], "same"),
            lambda: bare.sample(arms[names[2]], "plain"),
        ]
        for repetition in range(arguments.repetitions):
            for turn in turns if repetition % 2 == 0 else reversed(turns):
                turn()
        reloads = [stage.reload(work.policy, config.engine.verify_sequences) for _ in range(arguments.repetitions)]
    finally:
        bare.close()
        stage.engine.close()
    for _ in range(2):
        transformers_generate(work, arms[names[3]], batch=32, prompts=min(256, arguments.prompts))
    return report(arms, stage.cold_seconds, reloads)


def report(arms: dict[str, Arm], cold: float, reloads: list[tuple[float, float]]) -> int:
    figures = Table(title="tokens a second, median (range)")
    for column in ("arm", "wall", "CPU, all processes of the arm"):
        figures.add_column(column)
    for name, arm in arms.items():
        figures.add_row(name, _spread(arm.wall), _spread(arm.cpu))
    console.print(figures)
    wall, cpu = (
        {name: statistics.median(getattr(arm, clock)) for name, arm in arms.items()} for clock in ("wall", "cpu")
    )
    first, same, plain, slow = arms
    ready = statistics.median(loaded for loaded, _ in reloads)
    verified = statistics.median(loaded + checked for loaded, checked in reloads)
    found = {
        f"of vLLM's tokens a second (wall; must be >= {SHARE:g})": (
            wall[first] / wall[same],
            wall[first] / wall[same] >= SHARE,
        ),
        "the same, in CPU seconds": (cpu[first] / cpu[same], True),
        "of vLLM's without seeds and log-probabilities, wall": (wall[first] / wall[plain], True),
        "times transformers' generate, wall": (wall[first] / wall[slow], True),
        "times transformers' generate, CPU": (cpu[first] / cpu[slow], True),
        f"seconds until reloaded (must be <= {READY:g})": (ready, ready <= READY),
        f"seconds until reloaded and verified (must be <= {READY:g})": (verified, verified <= READY),
        "seconds of a cold engine's start": (cold, True),
    }
    verdict = Table()
    for column in ("figure", "found"):
        verdict.add_column(column)
    for name, (value, good) in found.items():
        verdict.add_row(name, f"{value:.3f}" if good else f"[red]{value:.3f}[/]")
    console.print(verdict)
    console.print(machine(), f"load now: {os.getloadavg()[0]:.1f}")
    missed = [name for name, (_, good) in found.items() if not good]
    result = {
        "arms": {name: {"wall": arm.wall, "cpu": arm.cpu} for name, arm in arms.items()},
        "figures": {name: value for name, (value, _) in found.items()},
        "reloads": reloads,
        "missed": missed,
    }
    console.print(f"written: {write_result('generation', result).relative_to(Path.cwd())}")
    return 1 if missed else 0


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


if __name__ == "__main__":
    sys.exit(main())
