"""Offline pairs kept by SeRA: vectors, margins against single forwards, and the mix stage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.schemas import PREFERENCES, read_parquet
from tasks.labeling.margin_filter import PolicyMarginFilter, keep_by_policies, largest, weighted
from tasks.mixing.offline import OfflineSettings, read_offline
from tasks.mixing.settings import MixingSettings
from tasks.mixing.stage import MixSpec, run_mix
from tasks.modeling.load import load_tokenizer
from tests.conftest import MakePolicy
from tests.mixing.test_mixing import preferences
from tests.panel.test_implicit_reward import logprob

NOW = np.array([0.7, 0.2, -0.1, 0.9]) - np.array([-0.4, 0.1, 0.3, 0.2])


def test_vectors() -> None:
    np.testing.assert_allclose(NOW, [1.1, 0.1, -0.4, 0.7], atol=1e-9)
    assert largest(NOW, 0.5).tolist() == [0, 3]
    both = weighted(NOW, np.array([0.1, 0.9, 0.0, 0.2]), 0.3)
    np.testing.assert_allclose(both, [0.80, 0.34, -0.28, 0.55], atol=1e-9)
    assert largest(both, 0.5).tolist() == [0, 3]
    assert largest(np.array([1.0, 1.0, 1.0]), 0.34).tolist() == [0, 1]


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl"
    texts = ["short", "a rather longer reply is better", "the sum of the numbers", "kind", "rude", "not known"]
    rows = [
        {"prompt": "what is the sum", "chosen": texts[i], "rejected": texts[(i + 1) % len(texts)]}
        for i in range(len(texts))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_margins_are_implicit_rewards_of_two_policies_over_the_reference(
    offline: Path, make_policy: MakePolicy
) -> None:
    now, before, reference = (make_policy(seed=seed) for seed in (1, 2, 0))
    rows = read_offline(OfflineSettings(path=offline, share=0.5, p_hat=0.9), load_tokenizer(reference))

    def reward(folder: Path, messages: list[dict[str, str]]) -> float:
        return logprob(folder, messages[0]["content"], True)

    def gap(folder: Path, row: dict[str, Any]) -> float:
        return reward(folder, row["chosen"]) - reward(folder, row["rejected"])

    wanted = [
        0.75 * (gap(now, row) - gap(reference, row)) + 0.25 * (gap(before, row) - gap(reference, row))
        for row in rows.to_pylist()
    ]
    settings = PolicyMarginFilter(share=0.5, before=0.25, batch_tokens=100, device="cpu")
    kept = keep_by_policies(rows, [now, before], reference, settings)
    best = rows.take(np.sort(np.argsort(wanted)[-3:]))
    assert kept["chosen_ids"].equals(best["chosen_ids"])
    assert keep_by_policies(rows, [reference, before], reference, settings) is rows


def test_the_mix_stage_draws_from_what_is_kept(offline: Path, make_policy: MakePolicy, tmp_path: Path) -> None:
    own = preferences(tmp_path / "own.parquet", 2, 2, 1)
    tokenizer = load_tokenizer(make_policy(seed=0))
    settings = OfflineSettings(path=offline, share=0.5, p_hat=0.9, keep=PolicyMarginFilter(share=0.34, device="cpu"))
    policies = [make_policy(seed=1), make_policy(seed=2)]
    spec = MixSpec(
        folder=tmp_path / "mix", round=2, seed=0, settings=MixingSettings(offline=settings), own=own,
        earlier=[], policy=policies[0], previous=policies[1], reference=make_policy(seed=0),
    )  # fmt: skip
    assert run_mix(spec).summary["pairs_by_round"] == {"2": 2, "offline": 3}
    assert settings.keep is not None
    kept = keep_by_policies(read_offline(settings, tokenizer), policies, make_policy(seed=0), settings.keep)
    mixed = read_parquet(spec.folder / "preferences.parquet", PREFERENCES)
    assert {row["chosen"][0]["content"] for row in mixed.to_pylist()[2:]} == {
        row["chosen"][0]["content"] for row in kept.to_pylist()
    }
