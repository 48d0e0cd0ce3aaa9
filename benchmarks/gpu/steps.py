"""Whole optimizer steps on the same pairs: this trainer in its settings, padded DPO in transformers, and TRL."""

import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.ours import our_step
from benchmarks.gpu.padded import padded_step
from benchmarks.gpu.trl_arm import trl_step
from tasks.training.groups import PromptGroup

RESERVE = 60.0  # seconds before the end after which no arm starts
OURS = "irepo"
#: Arms that the promised speed-up is over: the best of them.
RIVALS = ("padded DPO", "padded DPO by length", "TRL")

Arm = Callable[[Bench, str, Sequence[PromptGroup]], Row]
ARMS: dict[str, Arm] = {
    OURS: our_step,
    "irepo, LoRA": partial(our_step, lora=True),
    "irepo, recomputed": partial(our_step, recompute=True),
    "irepo, plain rows": partial(our_step, plain=True),
    "padded DPO": padded_step,
    "padded DPO by length": partial(padded_step, by_length=True),
}
if find_spec("trl") is not None:
    ARMS["TRL"] = trl_step


class ArmsFailed(Exception):
    """Some arms failed; `rows` has the others and, for these, the reason."""

    def __init__(self, rows: list[Row], failed: list[str]) -> None:
        super().__init__(f"failed: {', '.join(failed)}")
        self.rows = rows


def measure(bench: Bench) -> list[Row]:
    """Pairs per second, MFU of useful tokens, peak memory, and the share of the update that bfloat16 keeps.

    "pairs" are prompts with two responses, "groups of four" prompts with four and all six pairs. Running out of memory
    is a result. Raises ArmsFailed, after all arms, when one failed otherwise.
    """
    rows: list[Row] = []
    failed: list[str] = []
    for name in reversed(bench.names):  # the largest first: its figures are promised
        for data, responses, prompts in (("pairs", 2, 64), ("groups of four", 4, 16)):
            groups = bench.groups(name, prompts, responses)
            for arm, step in ARMS.items():
                row: Row = {"model": name, "data": data, "arm": arm}
                if time.monotonic() > bench.end - RESERVE:
                    rows.append(row | {"note": "no time left"})
                    continue
                try:
                    row |= step(bench, name, groups)
                except torch.OutOfMemoryError:
                    row["note"] = "out of memory"
                except Exception as error:  # the other arms go on; the section fails at its end
                    traceback.print_exc()
                    row["note"] = f"{type(error).__name__}: {str(error)[:90]}"
                    failed.append(f"{name} {data} {arm}")
                finally:
                    bench.free()
                rows.append(row)
    if failed:
        raise ArmsFailed(rows, failed)
    return rows
