"""A round as a script does it today: vLLM, a labelling script and TRL's DPOTrainer, a process a stage.

    python -m benchmarks.round.plain generate <round folder> <policy folder> <demo's artifacts>
    python -m benchmarks.round.plain label | train | evaluate  (the same words)

It does the work of `run=demo`: 256 prompts with four responses each, seven annotators, three epochs over all pairs
with the same learning rate and pairs per step, two replies to each held-out prompt, win rates by the truth and by the
held-out reward model against the initial policy and the previous one, rates, and the KL to the initial policy. Each
stage is set up to be fast (reference log-probabilities once, no compilation, no activation checkpointing). It has no
manifests, digests, resumption, verification or report.
"""

import json
import random
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

PROMPTS, RESPONSES, REPLIES = 256, 4, 2
MAX_TOKENS, CONTEXT = 64, 256
EPOCHS, RATE, BETA = 3, 3e-4, 0.6
BATCH, ACCUMULATED = 16, 6  # pairs: 96 a step, as 16 prompts with six pairs each; 8, 32 and 96 at once are slower

Row = dict[str, Any]


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _sample(policy: Path, rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`rows` with the prompt's token ids and `count` responses each: text, token ids, whether it ended."""
    from vllm import LLM, SamplingParams
    from vllm.renderers.chat_utils import ChatCompletionMessageParam

    llm = LLM(
        str(policy),
        dtype="float32",
        max_model_len=CONTEXT,
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 30,
        seed=seed,
    )
    conversations: list[list[ChatCompletionMessageParam]] = [
        [{"role": "user", "content": row["prompt"]}] for row in rows
    ]
    outputs = llm.chat(conversations, SamplingParams(n=count, max_tokens=MAX_TOKENS), use_tqdm=False)
    return [
        row
        | {
            "prompt_ids": list(output.prompt_token_ids or ()),
            "responses": [
                {"text": each.text, "ids": list(each.token_ids), "ended": each.finish_reason == "stop"}
                for each in output.outputs
            ],
        }
        for row, output in zip(rows, outputs, strict=True)
    ]


def generate(folder: Path, policy: Path, artifacts: Path) -> None:
    number = int(folder.name)
    prompts = random.Random(number).sample(_read(artifacts / "prompts.jsonl"), PROMPTS)
    _write(folder / "responses.jsonl", _sample(policy, prompts, RESPONSES, seed=number))


def _rewards(path: Path, rows: Sequence[Row]) -> list[list[float]]:
    """A reward model's score of every response, by prompt."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32, trust_remote_code=False)
    model = model.eval()
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": response["text"]}],
            tokenize=False,
        )
        for row in rows
        for response in row["responses"]
    ]
    scores: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(texts), 256):
            batch = tokenizer(
                texts[start : start + 256],
                padding=True,
                padding_side="right",
                add_special_tokens=False,
                return_tensors="pt",
            )
            batch.pop("token_type_ids", None)
            scores += model(**batch).logits[:, 0].tolist()
    given = iter(scores)
    return [[next(given) for _ in row["responses"]] for row in rows]


def _check(name: str, row: Row, response: Row) -> float:
    from tasks.demo import utility

    check = getattr(utility, name)
    return float(check(row["prompt"], row["answer"], row["task"], response["text"], response["ended"]))


def label(folder: Path, policy: Path, artifacts: Path) -> None:
    """Seven annotators vote on every pair of different responses; the majority makes a pair for TRL."""
    rows = _read(folder / "responses.jsonl")
    models = [_rewards(artifacts / "reward_models" / name, rows) for name in ("one", "two")]
    coin = random.Random(folder.name)
    pairs = []
    for number, row in enumerate(rows):
        responses = row["responses"]
        truth = [_check("utility", row, each) for each in responses]
        scores: list[tuple[list[float], float]] = [
            ([_check("is_correct", row, each) for each in responses], 0),
            ([float(str(row["answer"]) in each["text"]) for each in responses], 0),
            ([_check("manners", row, each) for each in responses], 0),
            ([-float(len(each["text"].split())) for each in responses], 3),
            *((model[number], 0.0) for model in models),
        ]
        for a, b in combinations(range(len(responses)), 2):
            if responses[a]["ids"] == responses[b]["ids"]:
                continue
            gaps = [(given[a] - given[b], margin) for given, margin in scores]
            votes = sum((gap > margin) - (gap < -margin) for gap, margin in gaps)
            person = (truth[a] > truth[b]) - (truth[a] < truth[b])
            votes += -person if coin.random() < 0.25 else person
            won, lost = (a, b) if votes >= 0 else (b, a)
            pairs.append(
                {
                    "prompt": [{"role": "user", "content": row["prompt"]}],
                    "chosen": [{"role": "assistant", "content": responses[won]["text"]}],
                    "rejected": [{"role": "assistant", "content": responses[lost]["text"]}],
                }
            )
    _write(folder / "pairs.jsonl", pairs)


def train(folder: Path, policy: Path, artifacts: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    data = load_dataset("json", data_files=str(folder / "pairs.jsonl"), split="train", cache_dir=str(folder / "cache"))
    config = DPOConfig(
        output_dir=str(folder / "trainer"),
        beta=BETA,
        num_train_epochs=EPOCHS,
        learning_rate=RATE,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATED,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=128,
        gradient_checkpointing=False,
        max_length=CONTEXT,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        logging_steps=10,
        seed=int(folder.name),
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy, dtype="float32", trust_remote_code=False),
        args=config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(policy, trust_remote_code=False),
    )
    trainer.train()
    trainer.save_model(str(folder / "policy"))
    (folder / "pairs.json").write_text(json.dumps(len(data)), encoding="utf-8")


def evaluate(folder: Path, policy: Path, artifacts: Path) -> None:
    """Replies to the held-out prompts; win rates, rates, lengths and divergence to metrics.json."""
    rows = _sample(policy, _read(artifacts / "heldout.jsonl"), REPLIES, seed=1000 + int(folder.name))
    scored = {"truth": [[_check("utility", row, each) for each in row["responses"]] for row in rows]}
    scored["held-out"] = _rewards(artifacts / "judge", rows)
    metrics: dict[str, Any] = {}
    for judge, scores in scored.items():
        for rival in sorted({"0", str(int(folder.name) - 1)} - {"-1", folder.name}):
            theirs = json.loads((folder.parent / rival / "scores.json").read_text(encoding="utf-8"))[judge]
            duels = [
                _duel(x, y) for own, other in zip(scores, theirs, strict=True) for x, y in zip(own, other, strict=True)
            ]
            metrics[f"win rate against {rival}, {judge}"] = _interval(duels)
    for name in ("is_correct", "is_polite", "is_rude", "is_garbage", "ramblings"):
        metrics[name] = _interval([_check(name, row, each) for row in rows for each in row["responses"]])
    metrics["kl"] = _interval(_log_ratios(rows, policy, artifacts / "policy"))
    (folder / "scores.json").write_text(json.dumps(scored), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def _duel(ours: float, theirs: float) -> float:
    return 0.5 if ours == theirs else float(ours > theirs)


def _interval(values: Sequence[float]) -> list[float]:
    """Mean, and the 95 % interval of 1,000 bootstrap resamples."""
    import numpy as np

    array = np.asarray(values)
    draws = np.random.default_rng(0).integers(len(array), size=(1000, len(array)))
    return [float(array.mean()), *np.quantile(array[draws].mean(axis=1), [0.025, 0.975]).tolist()]


def _log_ratios(rows: Sequence[Row], policy: Path, initial: Path) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    pairs = sorted(
        ((row["prompt_ids"], each["ids"]) for row in rows for each in row["responses"]), key=lambda x: len(x[0] + x[1])
    )
    sums = []
    for folder in (policy, initial):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
        values: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(pairs), 64):
                batch = pairs[start : start + 64]
                width = max(len(prompt + reply) for prompt, reply in batch)
                ids = torch.tensor([[*prompt, *reply] + [0] * (width - len(prompt + reply)) for prompt, reply in batch])
                mask = torch.tensor(
                    [[1] * len(prompt + reply) + [0] * (width - len(prompt + reply)) for prompt, reply in batch]
                )
                logprobs = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
                chosen = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
                for row, (prompt, reply) in zip(chosen, batch, strict=True):
                    values.append(float(row[len(prompt) - 1 : len(prompt) + len(reply) - 1].sum()))
        sums.append(values)
    return [ours - theirs for ours, theirs in zip(*sums, strict=True)]


if __name__ == "__main__":
    {"generate": generate, "label": label, "train": train, "evaluate": evaluate}[sys.argv[1]](*map(Path, sys.argv[2:]))
