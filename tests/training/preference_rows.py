"""Rows of preferences.parquet over random responses."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from storage.schemas import PREFERENCES, table, write_parquet


def preference_rows(
    *,
    prompts: int,
    responses: int,
    vocabulary: int = 300,
    seed: int = 0,
    prompt_tokens: int = 6,
    response_tokens: int = 8,
) -> list[dict[str, Any]]:
    """All pairs of `responses` random responses of each prompt, of varied lengths. Targets are mostly within +-2."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(prompts):
        prompt = rng.integers(3, vocabulary, rng.integers(prompt_tokens // 2, 2 * prompt_tokens)).tolist()
        replies = [
            rng.integers(3, vocabulary, rng.integers(response_tokens // 2, 2 * response_tokens)).tolist()
            for _ in range(responses)
        ]
        strengths = rng.normal(size=responses)
        for i, j in itertools.combinations(range(responses), 2):
            chosen, rejected = (i, j) if strengths[i] >= strengths[j] else (j, i)
            target = float(strengths[chosen] - strengths[rejected])
            rows.append(preference_row(f"{number:016x}", prompt, replies, chosen, rejected, target))
    return rows


def preference_row(
    prompt_id: str, prompt: list[int], replies: list[list[int]], chosen: int, rejected: int, target: float
) -> dict[str, Any]:
    def message(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    return {
        "prompt": message("user", prompt_id),
        "chosen": message("assistant", str(chosen)),
        "rejected": message("assistant", str(rejected)),
        "prompt_id": prompt_id,
        "round": 1,
        "chosen_index": chosen,
        "rejected_index": rejected,
        "p_hat": 1 / (1 + math.exp(-target)),
        "target": target,
        "target_se": 1.0,
        "votes_chosen": 3.0,
        "votes_rejected": 1.0,
        "votes_tie": 0.0,
        "votes_abstain": 0,
        "votes_error": 0,
        "prompt_ids": prompt,
        "chosen_ids": replies[chosen],
        "rejected_ids": replies[rejected],
        "chosen_finish_reason": "stop",
        "rejected_finish_reason": "stop",
    }


def write_preferences(path: Path, rows: list[dict[str, Any]]) -> Path:
    write_parquet(path, table(rows, PREFERENCES))
    return path
