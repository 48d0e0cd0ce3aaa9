"""Training against TRL at the same update: pairs a second, memory, and how much of what tokens allow is reached.

    python -m benchmarks.training                    # 64 pairs, three rounds: fifteen minutes of an idle core
    python -m benchmarks.training --rounds 1 --skip-memory
    python -m benchmarks.training --device cuda      # never run: bf16, seconds instead of CPU seconds

Arms alternate in one process, on one thread, in CPU time (others may use the machine), their order reversed every
round; a ratio is the median over rounds of ratios within a round. A gate comes first: packed rows against one forward a
response, and the norm of an optimizer step's gradient against TRL's. Reference log-probabilities that are cached are
not in the time; what they cost once is printed. TRL's head projects every position on a CPU and those of responses only
on a GPU: the arm that decides ("best") is patched to do the latter here too. Prints tables, writes
benchmarks/results/training.json after every round, and leaves with 1 when a figure misses what it must be.
"""

import argparse
import os
import statistics
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, write_result
from benchmarks.training.arms import ARMS, BEST, CACHED, DEFAULTS, OURS, Epoch, Work
from benchmarks.training.world import LARGE_VOCABULARY, VOCABULARY, build_groups

console = Console()
#: figure -> (must be at least, aim); memory: at most.
WANTED: dict[str, tuple[float, float]] = {
    f"pairs: times {BEST}": (1.5, 1.6),
    f"pairs: times {CACHED}": (2.0, 2.3),
    f"pairs: times {DEFAULTS}": (3.0, 3.4),
    f"groups of four: times {BEST}": (4.0, 5.0),
    f"groups of four: times {DEFAULTS}": (8.0, 10.0),
    "pairs: share of the token bound": (0.90, 0.97),
}
MEMORY = (1 / 3, 1 / 4)


def round_of(work: Work, names: list[str]) -> dict[str, Epoch]:
    result = {}
    for name in names:
        result[name] = ARMS[name](work)()
        pace = work.pairs / result[name].seconds
        console.print(f"  {name}: {pace:.3f} pairs/s, {result[name].tokens / work.pairs:.0f} tokens a pair")
    return result


def measure(works: dict[str, tuple[Work, list[str]]], rounds: int) -> dict[str, list[dict[str, Epoch]]]:
    found: dict[str, list[dict[str, Epoch]]] = {name: [] for name in works}
    for number in range(rounds):
        for name, (work, arms) in works.items():
            console.print(f"round {number + 1}, {name}: {work.pairs} pairs")
            found[name].append(round_of(work, arms if number % 2 == 0 else arms[::-1]))
            write_result("training", {"epochs": plain(found)})
    return found


def plain(found: dict[str, list[dict[str, Epoch]]]) -> dict[str, Any]:
    return {work: [{n: vars(e) for n, e in each.items()} for each in rounds] for work, rounds in found.items()}


def figures(found: dict[str, list[dict[str, Epoch]]]) -> dict[str, list[float]]:
    """Every ratio, by round."""
    result: dict[str, list[float]] = {}
    for work, rounds in found.items():
        for arm in rounds[0]:
            if arm != OURS:
                result[f"{work}: times {arm}"] = [each[arm].seconds / each[OURS].seconds for each in rounds]
        if BEST in rounds[0]:
            result[f"{work}: share of the token bound"] = [
                (each[BEST].seconds / each[OURS].seconds) / (each[BEST].tokens / each[OURS].tokens) for each in rounds
            ]
        if DEFAULTS in rounds[0]:
            result[f"{work}: times {DEFAULTS}, our reference pass counted"] = [
                each[DEFAULTS].seconds / (each[OURS].seconds + each[OURS].reference_seconds) for each in rounds
            ]
    return result


def memory(pairs: int) -> dict[str, dict[str, float]]:
    from benchmarks.training.memory import peak

    return {name: peak(name, pairs) for name in (OURS, BEST, CACHED)}


def show(title: str, rows: list[tuple[str, str, str, str, bool]]) -> None:
    table = Table(title=title)
    for column in ("figure", "must be", "aim", "found"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, must, aim, value, good in rows:
        table.add_row(name, must, aim, value if good else f"[red]{value}[/]")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--large", action="store_true", help="also a vocabulary of 32,000 (CPU-only ratios)")
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    import datasets
    import torch
    import transformers

    from benchmarks.training.gate import exactness, passed

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    gate = exactness(VOCABULARY)
    console.print("gate:", {name: f"{value:.1e}" for name, value in gate.items()})
    if not passed(gate):
        console.print("[red]the arms do not make the same update: nothing is timed[/]")
        return 1

    gpu: dict[str, Any] = {"bf16": arguments.device == "cuda", "device": arguments.device}
    prompts = -(-arguments.pairs // 6)
    works = {
        "pairs": (
            Work(build_groups(arguments.pairs, 2, VOCABULARY), arguments.pairs // 2, VOCABULARY, **gpu),
            list(ARMS),
        ),
        "groups of four": (
            Work(build_groups(prompts + prompts % 2, 4, VOCABULARY), (prompts + 1) // 2, VOCABULARY, **gpu),
            [OURS, BEST, DEFAULTS],
        ),
    }
    if arguments.large:
        large = build_groups(arguments.pairs, 2, LARGE_VOCABULARY)
        works["pairs, vocabulary 32,000"] = (
            Work(large, arguments.pairs // 2, LARGE_VOCABULARY, **gpu),
            [OURS, BEST, CACHED],
        )
    found = measure(works, arguments.rounds)
    ratios = figures(found)
    rows, missed = [], []
    for name, values in ratios.items():
        middle = statistics.median(values)
        must, aim = WANTED.get(name, (None, None))
        good = must is None or middle >= must
        missed += [] if good else [name]
        spread = f"{middle:.2f} ({min(values):.2f} to {max(values):.2f})"
        rows.append((name, f">= {must}" if must else "", f"{aim}" if aim else "", spread, good))
    peaks = {} if arguments.skip_memory else memory(12)
    if peaks:
        share = peaks[OURS]["above"] / peaks[CACHED]["above"]
        missed += [] if share <= MEMORY[0] else ["memory"]
        name = f"memory above import, vocabulary 32,000: share of {CACHED}"
        rows.append((name, f"<= {MEMORY[0]:.2f}", f"{MEMORY[1]:.2f}", f"{share:.2f}", share <= MEMORY[0]))
        console.print({name: f"{each['above']:.0f} MiB" for name, each in peaks.items()})
    show("training", rows)
    ours = [each[OURS] for each in found["pairs"]]
    console.print(f"reference pass, once a round of training: {ours[0].reference_seconds / ours[0].seconds:.2f} epochs")
    console.print(machine(), f"torch {torch.__version__}")
    path = write_result(
        "training", {"gate": gate, "epochs": plain(found), "ratios": ratios, "memory": peaks, "missed": missed}
    )
    console.print(f"written: {path}")
    if missed:
        console.print(f"[red]missed: {', '.join(missed)}[/]")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
