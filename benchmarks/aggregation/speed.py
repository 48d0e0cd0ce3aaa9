"""(d) Speed and memory: votes on disk to a target and a standard error for every pair, beside a loop of choix."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.aggregation.libraries import win_list
from storage.arrays import Floats
from storage.schemas import VOTES
from tasks.labeling.aggregation import Votes, read_votes, sigmoid
from tasks.labeling.aggregation.estimate import estimate, fit_annotators
from tasks.labeling.settings import PreferenceSettings

RESPONSES, ANNOTATORS = 5, 9
_BLOCK = 4096  # prompts
_LOOP = 100  # prompts of the choix loop; its time is scaled to all
_PAIRS = RESPONSES * (RESPONSES - 1) // 2


@dataclass(frozen=True)
class Speed:
    """Seconds and peak resident memory (MiB, less what importing takes) of one aggregation in its own process."""

    prompts: int
    seconds: float
    peak: float


def write_votes(path: Path, prompts: int, seed: int = 0) -> None:
    """votes.parquet of `prompts` x 5 responses x 9 annotators, a row group for every 4096 prompts."""
    rng = np.random.default_rng(seed)
    i, j = np.triu_indices(RESPONSES, 1)
    names = pa.array([f"annotator-{k}" for k in range(ANNOTATORS)])
    with pq.ParquetWriter(path, VOTES, compression="zstd") as writer:
        for start in range(0, prompts, _BLOCK):
            size = min(_BLOCK, prompts - start)
            theta = rng.normal(size=(size, RESPONSES))
            p = np.repeat(sigmoid(theta[:, i] - theta[:, j]).ravel(), ANNOTATORS)
            won = rng.random(len(p)) < p
            ids = pa.array([f"{number:016x}" for number in range(start, start + size)])
            source, rows = pa.repeat("policy", len(p)), np.arange(len(p))
            columns = {
                "prompt_id": ids.take(pa.array(rows // (_PAIRS * ANNOTATORS))),
                "source_a": source,
                "index_a": np.tile(np.repeat(i, ANNOTATORS), size).astype(np.int32),
                "source_b": source,
                "index_b": np.tile(np.repeat(j, ANNOTATORS), size).astype(np.int32),
                "annotator": names.take(pa.array(rows % ANNOTATORS)),
                "kind": pa.repeat("pairs", len(p)),
                "outcome": pc.if_else(pa.array(won), "a", "b"),
                "order": pa.repeat("ab", len(p)),
            }
            full = {field.name: columns.get(field.name, pa.nulls(len(p), field.type)) for field in VOTES}
            writer.write_table(pa.table(full, schema=VOTES), row_group_size=len(p))


def aggregate(path: Path, settings: PreferenceSettings) -> Iterator[tuple[Floats, Floats]]:
    """Target and standard error of every pair, [n] each, a block of prompts at a time."""
    names = tuple(f"annotator-{k}" for k in range(ANNOTATORS))
    weights = np.ones(ANNOTATORS)
    columns = ["prompt_id", "index_a", "index_b", "annotator", "kind", "outcome", "probability"]

    def blocks() -> Iterator[tuple[int, Votes]]:
        file = pq.ParquetFile(path, read_dictionary=["prompt_id", "annotator", "kind", "outcome"])
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=columns)
            ids = pc.unique(rows["prompt_id"]).cast(pa.string())
            yield group * _BLOCK, read_votes(rows, ids, names, weights)

    annotator_fit = fit_annotators(blocks, names, RESPONSES, settings)
    i, j = np.triu_indices(RESPONSES, 1)
    for _, votes in blocks():
        size = int(votes.prompt[-1]) + 1
        fitted = estimate(votes, np.ones((size, RESPONSES), dtype=bool), settings, annotator_fit)
        prompt = np.repeat(np.arange(size), len(i))
        yield fitted.gaps.gaps(prompt, np.tile(i, size), np.tile(j, size))


def measure(path: Path, prompts: int, rule: str) -> Speed:
    """Aggregate `path` in a process of its own; `rule` is preferences.reliability."""
    command = [sys.executable, "-m", "benchmarks.aggregation.speed", str(path), rule]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Speed(prompts, float(done[0]), float(done[1]))


def loop_seconds(path: Path, prompts: int) -> tuple[float, float]:
    """Seconds that a loop of choix's ridge fit would take for `prompts`, and its largest distance from our targets.

    Timed on the first 100 prompts of `path` and scaled; votes are in lists before the clock starts, as choix wants
    them, and it gives no standard errors.
    """
    import choix

    names = tuple(f"annotator-{k}" for k in range(ANNOTATORS))
    rows = pq.ParquetFile(path).read_row_group(0)
    votes = read_votes(rows, pc.unique(rows["prompt_id"]), names, np.ones(ANNOTATORS)).block(0, _LOOP)
    lists = [win_list(wins) for wins in votes.wins((_LOOP, RESPONSES))]
    started = time.perf_counter()
    theirs = np.array([choix.opt_pairwise(RESPONSES, pairs, alpha=0.25, method="Newton-CG") for pairs in lists])
    seconds = (time.perf_counter() - started) * prompts / _LOOP
    i, j = np.triu_indices(RESPONSES, 1)
    target = next(aggregate(path, PreferenceSettings()))[0][: _LOOP * len(i)].reshape(_LOOP, -1)
    return seconds, float(np.abs(theirs[:, i] - theirs[:, j] - target).max())


def main() -> None:
    """Print the seconds and the growth of peak memory in MiB for a file of votes and a reliability rule."""
    before = _peak()
    started = time.perf_counter()
    settings = PreferenceSettings.model_validate({"reliability": sys.argv[2]})
    total = sum(len(target) for target, _ in aggregate(Path(sys.argv[1]), settings))
    print(time.perf_counter() - started, _peak() - before, total)


def _peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
