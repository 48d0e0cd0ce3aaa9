"""A small preference set, and the words of an offline run on it with a tiny policy."""

import json
from pathlib import Path


def write_pairs(path: Path, count: int) -> Path:
    """`count` pairs of short texts, each with a prompt of its own, in TRL's format."""
    rows = [{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": f"not {i + 1}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def offline_words(policy: Path, data: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"policy={policy}", f"data={data}", f"runs={folder / 'runs'}", "engine=transformers", "training=small",
        "training.epochs=1", "training.device=cpu", "sampling.max_tokens=6", "evaluation.responses=1",
        "evaluation.bootstrap=100", *more,
    ]  # fmt: skip
