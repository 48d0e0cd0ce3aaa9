"""The memory plan of training against the memory of a process that takes real steps: within 15 %."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.modeling.chunk_size import CPU_CHUNK
from tasks.modeling.shape import Shape
from tasks.training.memory import Row, training_memory
from tasks.training.settings import OptimizationSettings
from tests.flows.peak_worker import ENVIRONMENT, PROMPT, PROMPTS, RESPONSE, RESPONSES

PROJECT = Path(__file__).resolve().parents[2]
FULL: dict[str, object] = {"dtype": "float32"}
#: In float32: without instructions for bfloat16 a CPU takes minutes for a step.
CASES = [
    FULL,
    FULL | {"gradient_checkpointing": True},
    FULL | {"lora": {}},
]
ROW = Row(
    tokens=PROMPTS * (PROMPT + RESPONSES * (RESPONSE - 1)),
    keys=PROMPTS * (PROMPT + RESPONSES * (PROMPT + RESPONSE - 1)),
    predicted=PROMPTS * RESPONSES * RESPONSE,
)


def build(folder: Path, kind: str) -> Path:
    """Save a random policy of 7 million weights, whose training takes a few hundred MB."""
    from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 4096,
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    if kind == "llama":
        more: dict[str, Any] = {"intermediate_size": 768, "num_key_value_heads": 2, "tie_word_embeddings": False}
        LlamaForCausalLM(LlamaConfig(**sizes, **more)).save_pretrained(folder)
    else:
        PhiForCausalLM(PhiConfig(**sizes, intermediate_size=1024)).save_pretrained(folder)
    return folder


def measured(folder: Path, cases: list[dict[str, object]]) -> list[int]:
    command = [sys.executable, "-m", "tests.flows.peak_worker", str(folder), *(json.dumps(case) for case in cases)]
    done = subprocess.run(
        command, cwd=PROJECT, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def planned(folder: Path, case: dict[str, object]) -> int:
    settings = OptimizationSettings.model_validate(case)
    return training_memory(Shape.of_folder(folder), settings, ROW, chunk=CPU_CHUNK).total


@pytest.mark.slow
def test_full_training_in_float32(tmp_path: Path) -> None:
    folder = build(tmp_path, "llama")
    (peak,) = measured(folder, [FULL])
    assert planned(folder, FULL) == pytest.approx(peak, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_adapters_and_checkpointing(kind: str, tmp_path: Path) -> None:
    folder = build(tmp_path, kind)
    peaks = measured(folder, CASES)
    ratios = [planned(folder, case) / peak for case, peak in zip(CASES, peaks, strict=True)]
    assert [ratio for ratio in ratios if not 0.85 < ratio < 1.15] == [], ratios
