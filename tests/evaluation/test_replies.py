"""Figures of replies by hand; the jackknife against leaving each prompt out."""

import numpy as np
import pytest

from tasks.evaluation.intervals import Bootstrap
from tasks.evaluation.replies import distinct, reply_metrics


def test_figures_by_hand() -> None:
    texts = ["a b a", "a b", "c", "a b"]
    result = reply_metrics(
        texts, [4, 3, 2, 3], [True, True, False, True], ["p", "p", "q", "q"], Bootstrap(resamples=200, seed=0)
    )
    means = {name: value.mean for name, value in result.items()}
    assert means == {
        "tokens": 3.0, "words": 2.0, "characters": pytest.approx(12 / 4), "finished": 0.75, "unique": 0.75,
        "distinct-1": 3 / 8, "distinct-2": 2 / 4,
    }  # fmt: skip
    assert all(value.low <= value.mean <= value.high for value in result.values())


def test_the_interval_is_that_of_leaving_prompts_out() -> None:
    rng = np.random.default_rng(0)
    prompts = [f"p{i // 2}" for i in range(40)]
    items = [[int(item) for item in rng.integers(0, 60, rng.integers(1, 6))] for _ in prompts]

    def share(kept: list[list[int]]) -> float:
        every = [item for reply in kept for item in reply]
        return len(set(every)) / len(every)

    without = [share([i for i, p in zip(items, prompts, strict=True) if p != left]) for left in dict.fromkeys(prompts)]
    error = np.sqrt((20 - 1) / 20 * np.square(np.array(without) - np.mean(without)).sum())
    result = distinct(items, prompts)
    assert result.mean == share(items)
    assert result.high - result.mean == pytest.approx(1.96 * error)


def test_nothing_and_one_prompt() -> None:
    assert distinct([[], []], ["p", "q"]).mean == 1.0
    one = distinct([["x"], ["x"]], ["p", "p"])
    assert (one.mean, one.low, one.high) == (0.5, 0.5, 0.5)
