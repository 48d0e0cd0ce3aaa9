"""Training on one GPU: does it work, is it exact, how fast is it, and where does the memory go?

    python -m benchmarks.gpu                      # under ten minutes on a card; needs no network, vLLM or Prefect
    python -m benchmarks.gpu --device cpu --tiny  # the same code on a CPU, to try the benchmark itself

Random models of Qwen2's shapes (0.5 and 1.5 billion weights) and random ids of realistic lengths. Every section stands
by itself: one that fails says why, and the next goes on. Prints tables, writes JSON, and leaves with 1 when a section
failed or, on a GPU, a promised figure is missed. `--only card,numerics` runs some sections.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.gpu import card, chunks, kernels, numerics, resume, steps
from benchmarks.gpu.bench import Bench, Row, Value
from benchmarks.gpu.promises import promises
from benchmarks.machine import RESULTS, machine
from storage.manifest import library_versions

SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "card": card.measure,
    "attention": kernels.measure,
    "numerics": numerics.measure,
    "head": chunks.measure,
    "resume": resume.measure,
    "steps": steps.measure,
}


def run(bench: Bench, names: Sequence[str]) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """The rows of each section, and the reason of each that failed. Prints each as it ends."""
    rows: dict[str, list[Row]] = {}
    failed: dict[str, str] = {}
    for name in names:
        started = time.monotonic()
        try:
            rows[name] = SECTIONS[name](bench)
        except Exception as error:  # the other sections go on; the exit code says that one failed
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
            rows[name] = error.rows if isinstance(error, steps.ArmsFailed) else []
        bench.free()
        show(f"{name}, {time.monotonic() - started:.0f} s{', FAILED' if name in failed else ''}", rows[name])
    return rows, failed


def show(title: str, rows: Sequence[Row]) -> None:
    """Print a table whose columns are the figures of all rows."""
    print(f"\n== {title}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    for line in lines if rows else []:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip(), flush=True)


def _cell(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest models and data")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--seconds", type=float, default=560, help="no arm of `steps` starts in the last minute of it")
    parser.add_argument("--json", type=Path, default=RESULTS / "gpu.json", help="where the figures go")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"unknown section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; use --device cpu --tiny to try the benchmark on a CPU")
    bench = Bench(options.device, options.tiny, time.monotonic() + options.seconds)
    rows, failed = run(bench, names)
    checked = promises(rows) if bench.device == "cuda" and not bench.tiny else []
    missed = [promise.name for promise in checked if not promise.kept]
    if checked:
        show("promised figures", [promise.row() for promise in checked])
    versions = library_versions()
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions.items()))
    result = {
        "benchmark": "gpu",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "sections": rows,
        "failed": failed,
        "promises": [promise.row() for promise in checked],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.json}")
    if failed:
        print(f"FAILED: {'; '.join(f'{name} ({reason})' for name, reason in failed.items())}")
    if missed:
        print(f"MISSED: {'; '.join(missed)}")
    if not failed and not missed:
        print("every section ran" + (", and every promised figure is kept" if checked else ""))
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
