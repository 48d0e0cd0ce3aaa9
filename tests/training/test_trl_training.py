"""Offline training against TRL's DPOTrainer on the same file, settings and seed: the losses of the first 20 steps."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.artifact import Artifact
from tasks.mixing.data import PAIRS, DataSettings, DataSpec, run_data
from tasks.modeling.load import load_tokenizer
from tasks.training.groups import windows
from tasks.training.objectives.dpo import Dpo
from tasks.training.settings import OptimizationSettings, TrainingSettings, TrainSpec
from tasks.training.trainer import run

STEPS, BATCH, RATE, BETA = 20, 4, 1e-3, 0.1
#: Turns end with the end token. TRL also trains on what a template writes after it, such as ChatML's line end.
TEMPLATE = (
    "{% for message in messages %}{{ '' if loop.first else '\n' }}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>{% endfor %}{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def policy(tiny_policy: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_policy), AutoTokenizer.from_pretrained(tiny_policy)
    tokenizer.chat_template = TEMPLATE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is the sum of {i} and {i * i % 7}?"}],
            "chosen": [{"role": "assistant", "content": f"The answer is {i + i * i % 7}."}],
            "rejected": [{"role": "assistant", "content": f"I do not know the answer, and {i} is rude." * (1 + i % 2)}],
        }
        for i in range(STEPS * BATCH)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ours(policy: Path, data: Path, folder: Path) -> list[float]:
    settings = DataSettings(path=str(data))
    start = Artifact.of(policy)
    run_data(
        DataSpec(
            folder=folder / "data", round=0, seed=0, settings=settings, data=settings.artifact(), policy=start,
            context=256,
        )
    )  # fmt: skip
    optimization = OptimizationSettings(
        learning_rate=RATE, schedule="constant", prompts_per_step=BATCH, dtype="float32", device="cpu"
    )
    spec = TrainSpec(
        folder=folder / "train",
        round=1,
        seed=0,
        settings=TrainingSettings(objective=Dpo(beta=BETA), optimization=optimization),
        policy=start,
        reference=start,
        preferences=Artifact.of(folder / "data") / PAIRS,
    )
    run(spec)
    return [json.loads(line)["loss"] for line in (spec.folder / "metrics.jsonl").read_text().splitlines()]


def theirs(policy: Path, data: Path, folder: Path) -> list[float]:
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    rows = load_dataset("json", data_files=str(data), split="train", cache_dir=str(folder / "cache"))
    order = [row for window in windows(len(rows), BATCH, seed=0, epoch=0) for row in window]
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy),
        ref_model=AutoModelForCausalLM.from_pretrained(policy),
        args=DPOConfig(
            output_dir=str(folder / "trl"), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=RATE,
            lr_scheduler_type="constant", beta=BETA, bf16=False, use_cpu=True, gradient_checkpointing=False,
            train_sampling_strategy="sequential", logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
            dataloader_pin_memory=False, max_length=None,
        ),
        train_dataset=rows.select(order),
        processing_class=load_tokenizer(policy),
    )  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
def test_the_first_losses_are_trls(policy: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    found, expected = ours(policy, data, tmp_path / "ours"), theirs(policy, data, tmp_path / "theirs")
    assert len(found) == len(expected) == STEPS
    assert expected[-1] < expected[0] - 0.1, "the policy must move, or equal losses mean nothing"
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 1e-4
