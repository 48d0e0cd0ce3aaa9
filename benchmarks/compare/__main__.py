"""Utility over KL of every method on the demo task: does iREPO's curve lie on or above every other's?

    python -m benchmarks.compare                              # twelve methods, two strengths, three seeds: over an hour
    python -m benchmarks.compare --seeds 0 --methods irepo dpo --strengths 3
    python -m benchmarks.compare --seeds 0                    # in several terminals, a seed each; then:
    python -m benchmarks.compare --report                     # from what is finished
    python -m benchmarks.compare --seeds 0 --methods irepo-em # a variant: methods.py

Six replies to each held-out prompt. One process, one engine, training in it; a finished arm is kept
(runs/benchmark-compare), so the same command goes on. Prints a table of arms and one of gaps at equal KL, writes
benchmarks/results/compare.json and compare.svg, and leaves with 1 when iREPO's curve (--ours: another's) lies below
another's, by more than two standard errors, in any seed, or an arm is missing.
"""

import argparse
import sys
from collections.abc import Mapping

from flows.operations.environment import prepare, quiet_console

prepare()
quiet_console()

from rich.console import Console  # noqa: E402

from benchmarks.compare.arms import Arm, build, common, run  # noqa: E402
from benchmarks.compare.methods import METHODS, STRENGTHS, VARIANTS  # noqa: E402
from benchmarks.compare.report import report  # noqa: E402


def arms(methods: list[str], seeds: list[int], strengths: int) -> dict[str, list[Arm]]:
    """Arms by method, in the order of running: by strength, then by seed."""
    found: dict[str, list[Arm]] = {}
    for method in methods:
        word, values = STRENGTHS[method]
        found[method] = [
            Arm(f"{method}-{value:g}", (*METHODS[method], f"{word}={value:g}"), seed)
            for value in values[:strengths]
            for seed in seeds
        ]
    return found


def complete(console: Console, wanted: Mapping[str, list[Arm]]) -> None:
    """Run the unfinished arms: the first arm of every method, then the second of every method, and so on."""
    import torch

    from tasks.engines import close_engines

    longest = max(len(each) for each in wanted.values())
    todo = [each[turn] for turn in range(longest) for each in wanted.values() if turn < len(each)]
    todo = [arm for arm in todo if not arm.record()]
    torch.set_num_threads(1)
    sources = {}
    try:
        for done, arm in enumerate(todo):
            if arm.seed not in sources:
                build(arm.seed)
                sources[arm.seed] = common(arm.seed)
            record = run(arm, sources[arm.seed])
            points = (f"{each['kl']['mean']:.2f}/{sum(each['utility']) / len(each['utility']):.2f}"
                      for each in record["rounds"])  # fmt: skip
            console.print(
                f"{done + 1} of {len(todo)}: {arm.folder.name}  {record['seconds']:.0f} s  {'  '.join(points)}"
            )
    finally:
        close_engines()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if name not in VARIANTS])
    parser.add_argument(
        "--strengths", type=int, default=2, help="how many of each method's, in the order of methods.py"
    )
    parser.add_argument("--ours", default="irepo", help="whose curve is held against the others'")
    parser.add_argument("--report", action="store_true", help="of what is finished; run nothing")
    given = parser.parse_args()
    wanted = arms(given.methods, given.seeds, given.strengths)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if not given.report:
        complete(console, wanted)
    return report(console, wanted, given.ours)


if __name__ == "__main__":
    sys.exit(main())
