"""Replies of very different lengths in eight shards: the stage, with shards apart and in flight, against vLLM alone.

    python -m benchmarks.generation.long_tail       # about five minutes on two idle cores

At a high temperature the demo's policy writes a few replies that are many times longer than the others. Bare vLLM gets
all prompts at once. Arms take turns. Prints a table, writes benchmarks/results/generation-long-tail.json, and exits
with 1 when the stage with shards in flight has less than 0.95 of vLLM's tokens a second.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.operations.environment import prepare

prepare()

from benchmarks.generation.arms import Arm, Bare, Stage, Work  # noqa: E402
from benchmarks.report import Report  # noqa: E402
from conf.compose import PROJECT, compose_config  # noqa: E402
from storage.prompts import each_prompt  # noqa: E402
from storage.rows import read_rows  # noqa: E402
from storage.schemas import PROMPTS, table, write_parquet  # noqa: E402

SHARE = 0.95  # least share of vLLM's tokens per second, with shards in flight
SHARDS = 8
WORDS = ["run=demo", "sampling.temperature=1.4", "sampling.max_tokens=192", "engine.verify_sequences=0"]
BARE, APART, TOGETHER = "vLLM alone, all prompts at once", "stage, shards apart", "stage, 8 shards in flight"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("overrides", nargs="*", help="further words of the run's configuration")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="irepo-long-tail-"))
    try:
        return run(home, arguments)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def run(home: Path, arguments: argparse.Namespace) -> int:
    config = compose_config([*WORDS, f"engine.shard_prompts={arguments.prompts // SHARDS}", *arguments.overrides])
    artifacts = PROJECT / "artifacts" / "demo-0"
    rows = list(each_prompt(read_rows(artifacts / "prompts.jsonl"), where="prompts", limit=arguments.prompts))
    write_parquet(home / "prompts.parquet", table(rows, PROMPTS))

    def work(in_flight: int) -> Work:
        settings = config.engine.model_dump() | {"shards_in_flight": in_flight}
        engine = type(config.engine).model_validate(settings)
        return Work(artifacts / "policy", home / "prompts.parquet", engine, config.sampling)

    bare, apart = Bare(work(1), home), Stage(work(1), home)
    together = Stage(work(SHARDS), home, engine=apart.engine)
    arms = {name: Arm() for name in (BARE, APART, TOGETHER)}
    turns: list[Callable[[], object]] = [
        lambda: bare.sample(arms[BARE], "same"),
        lambda: apart.sample(arms[APART]),
        lambda: together.sample(arms[TOGETHER]),
    ]
    try:
        bare.sample(Arm(), "same")
        together.sample(Arm())
        for repetition in range(arguments.repetitions):
            for turn in turns if repetition % 2 == 0 else reversed(turns):
                turn()
        lengths = _lengths(home / "stage")
    finally:
        bare.close()
        apart.engine.close()
    return report(arms, lengths)


def _lengths(folder: Path) -> np.ndarray:
    """Tokens of every response, int64."""
    paths = sorted(folder.glob("responses-*.parquet"))
    columns = [pq.read_table(path, columns=["response_ids"])["response_ids"] for path in paths]
    return np.concatenate([pc.list_value_length(column).to_numpy() for column in columns])


def report(arms: dict[str, Arm], lengths: np.ndarray) -> int:
    page = Report()
    quantiles = {f"p{q}": float(np.quantile(lengths, q / 100)) for q in (10, 50, 90, 99, 100)}
    page.console.print(f"{len(lengths)} replies, tokens: mean {lengths.mean():.1f}", quantiles)
    base = statistics.median(arms[BARE].wall)
    for name, arm in arms.items():
        rate = statistics.median(arm.wall)
        spread = f"({min(arm.wall):,.0f} to {max(arm.wall):,.0f})"
        good = name != TOGETHER or rate >= SHARE * base
        cpu = statistics.median(arm.cpu) / statistics.median(arms[BARE].cpu)
        page.say(name, f"{rate:,.0f} tokens/s {spread}, {rate / base:.3f} of vLLM's; by CPU seconds {cpu:.3f}", good)
    page.result = {"arms": {name: {"wall": arm.wall, "cpu": arm.cpu} for name, arm in arms.items()}}
    page.result |= {"lengths": quantiles | {"mean": float(lengths.mean())}}
    return page.close("generation-long-tail", {})


if __name__ == "__main__":
    sys.exit(main())
