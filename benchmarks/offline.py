"""Offline training against TRL's DPOTrainer: the same preference file, policy, settings and order of pairs, in float32.

    python -m benchmarks.offline                     # losses of 20 steps, and seconds from the file to the policy
    python -m benchmarks.offline --rounds 5 --hidden 256 --layers 4

Exits with 1 when a loss of the first 20 steps differs by 1e-4 or more. Both sides read the file, encode it, compute
reference log-probabilities, train one epoch and save the policy; imports are not counted, and the sides take turns.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tiny import build_policy

STEPS, BATCH, RATE, BETA = 20, 4, 1e-4, 0.1
TOLERANCE = 1e-4
#: Turns end with the end token. TRL also trains on what a template writes after it, such as ChatML's line end.
TEMPLATE = (
    "{% for message in messages %}{{ '' if loop.first else '\n' }}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)


def write_set(path: Path, *, pairs: int = STEPS * BATCH, words: int = 1) -> Path:
    """A preference file in TRL's conversational format. words: how often the sentences are repeated."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is the sum of {i} and {i * i % 7}?"}],
            "chosen": [{"role": "assistant", "content": f"The answer is {i + i * i % 7}." * words}],
            "rejected": [{"role": "assistant", "content": f"I do not know, and {i} is rude." * (words + i % 2)}],
        }
        for i in range(pairs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build(folder: Path, *, hidden: int = 64, layers: int = 2) -> Path:
    """A random Llama whose chat template is TEMPLATE."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tasks.modeling.pretrained import read_config, read_tokenizer

    build_policy(folder, seed=0, tied=True)
    tokenizer = read_tokenizer(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    if (hidden, layers) != (64, 2):
        config = read_config(folder).to_dict()
        config |= {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers}
        config |= {"head_dim": 32, "num_attention_heads": hidden // 32, "num_key_value_heads": hidden // 64}
        config |= {"initializer_range": 0.05, "max_position_embeddings": 1024}
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    return folder


def ours(policy: Path, data: Path, folder: Path) -> list[float]:
    """Losses by step."""
    from storage.artifact import Artifact
    from tasks.mixing.data import PAIRS, DataSettings, DataSpec, run_data
    from tasks.training.objectives.dpo import Dpo
    from tasks.training.settings import OptimizationSettings, TrainingSettings, TrainSpec
    from tasks.training.trainer import run

    settings, start = DataSettings(path=str(data)), Artifact.of(policy)
    read = DataSpec(
        folder=folder / "data", round=0, seed=0, settings=settings, data=settings.artifact(), policy=start, context=1024
    )
    run_data(read)
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
        preferences=Artifact.of(read.folder) / PAIRS,
    )
    run(spec)
    return [json.loads(line)["loss"] for line in (spec.folder / "metrics.jsonl").read_text().splitlines()]


def theirs(policy: Path, data: Path, folder: Path) -> list[float]:
    """Losses by step of TRL's DPOTrainer, which is given the pairs in our order."""
    from trl import DPOConfig, DPOTrainer

    from tasks.modeling.load import load_tokenizer
    from tasks.modeling.pretrained import read_dataset, read_model
    from tasks.training.groups import windows

    rows = read_dataset("json", data_files=str(data), split="train", cache_dir=str(folder / "cache"))
    order = [row for window in windows(len(rows), BATCH, seed=0, epoch=0) for row in window]
    models: list[Any] = [read_model("causal", policy)[0] for _ in range(2)]
    trainer = DPOTrainer(
        model=models[0],
        ref_model=models[1],
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
    trainer.save_model(str(folder / "saved"))
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def largest_difference(one: list[float], other: list[float]) -> float:
    """Of the first STEPS losses. Raises ValueError when a side has fewer."""
    return max(abs(a - b) for a, b in list(zip(one, other, strict=True))[:STEPS])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.offline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each side trains")
    parser.add_argument("--hidden", type=int, default=64, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--words", type=int, default=1, help="length of the responses, in sentences")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"irepo": [], "TRL": []}
    sides: dict[str, Callable[[Path, Path, Path], list[float]]] = {"irepo": ours, "TRL": theirs}
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="irepo-offline-") as name:
        root = Path(name)
        policy = build(root / "policy", hidden=options.hidden, layers=options.layers)
        data = write_set(root / "pairs.jsonl", words=options.words)
        for number in range(options.rounds + 1):  # the first one imports
            for side, train in sides.items():
                started = time.monotonic()
                losses[side] = train(policy, data, root / f"{side}-{number}")
                if number:
                    seconds[side].append(time.monotonic() - started)
    difference = largest_difference(losses["irepo"], losses["TRL"])
    ratios = [b / a for a, b in zip(seconds["irepo"], seconds["TRL"], strict=True)]
    print(f"losses of the first {STEPS} steps: {losses['irepo'][0]:.4f} to {losses['irepo'][STEPS - 1]:.4f}; largest "
          f"difference from TRL {difference:.1e} (at most {TOLERANCE:g})")  # fmt: skip
    for side, times in seconds.items():
        print(f"{side:6} {statistics.median(times):7.2f} s  ({min(times):.2f} to {max(times):.2f})")
    print(f"TRL takes {statistics.median(ratios):.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f})")
    return int(difference >= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
