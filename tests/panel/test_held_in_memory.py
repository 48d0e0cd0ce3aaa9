"""The memory of label and judge does not grow with texts and token ids.

Blocks are made small, so that a hundred prompts are many blocks. Memory that still grows from 20 prompts to 120 is
held for the whole pass. `python -m benchmarks.streams` measures whole processes.
"""

import tracemalloc
from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pytest

from storage import files
from storage.schemas import parquet_writer
from tasks.evaluation.judging import run_judging
from tasks.evaluation.settings import JudgeSpec, JudgingSettings
from tasks.labeling import preferences, stage
from tasks.labeling.stage import run
from tasks.panel import lazy_sequence as lazy
from tasks.panel import parts
from tests.panel.conftest import World

FEW, MANY, RESPONSES, CHARACTERS = 20, 120, 4, 2000
RULES: dict[str, dict[str, object]] = {
    "short": {"kind": "rule", "shorter": True, "tie_margin": 1},
    "answer": {"kind": "verifier", "method": "contains"},
    "person": {"kind": "simulated", "utility": "voters:length", "noise": 0.1},
}
# Bytes a prompt. Texts and token ids (a character each, 4 bytes in Arrow) would be 40,000; ids, votes, scores and
# labels were 2,100 and 2,600 when this was written.
HELD = 6000

_POOLS: list[pa.MemoryPool] = []  # must outlive what was allocated in them


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHUNK", 4096)
    monkeypatch.setattr(lazy, "_CHUNK", 16)
    monkeypatch.setattr(parts, "BATCH", 64)
    monkeypatch.setattr(stage, "_BLOCK", 16)
    monkeypatch.setattr(preferences, "_BLOCK", 16)
    monkeypatch.setattr(preferences, "_ROWS", 16)
    monkeypatch.setattr(stage, "parquet_writer", partial(parquet_writer, row_group_size=16))


def peak(body: Callable[[], object]) -> int:
    """Peak memory of a call in bytes: of Python and NumPy, and of Arrow."""
    pool, counting = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    _POOLS.append(counting)
    pa.set_memory_pool(counting)
    tracemalloc.start()
    try:
        body()
        return tracemalloc.get_traced_memory()[1] + int(counting.max_memory())
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(pool)


def texts(prompts: int, letter: str = "x") -> dict[str, list[str]]:
    return {
        f"p{i:04}": [f"{i} {k} ".ljust(CHARACTERS - 7 * k, letter) for k in range(RESPONSES)] for i in range(prompts)
    }


def test_label_holds_no_texts(make_world: Callable[[str], World]) -> None:
    def label(prompts: int, name: str) -> int:
        world = make_world(name)
        spec = world.spec(texts(prompts), RULES, answer="7", shards=prompts // 5, spread=False)
        return peak(lambda: run(spec))

    label(FEW, "first")  # imports and compiles
    few, many = label(FEW, "few"), label(MANY, "many")
    assert (many - few) / (MANY - FEW) < HELD


def test_judge_holds_no_texts(make_world: Callable[[str], World]) -> None:
    def judge(prompts: int, name: str) -> int:
        world = make_world(name)
        sources = {name: texts(prompts, name[0]) for name in ("policy", "initial")}
        spec = JudgeSpec(
            folder=world.folder / "judge",
            round=1,
            seed=1,
            settings=JudgingSettings.model_validate({"judges": RULES, "rates": {}}),
            responses={
                name: world.responses(responses, name=name, shards=prompts // 5, spread=False)
                for name, responses in sources.items()
            },
            prompts=world.prompts(list(sources["policy"]), answer="7"),
        )
        return peak(lambda: run_judging(spec))

    judge(FEW, "first")
    few, many = judge(FEW, "few"), judge(MANY, "many")
    assert (many - few) / (MANY - FEW) < HELD
