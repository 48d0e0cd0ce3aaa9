"""Win rates and the bootstrap over prompts, against loops that do one thing at a time."""

import numpy as np
import pytest

from storage.arrays import Floats
from tasks.evaluation import intervals
from tasks.evaluation.intervals import Bootstrap, bootstrap_mean, excluded, win_rate


def clustered(rng: np.random.Generator, prompts: int) -> tuple[Floats, list[str]]:
    """Values that share their prompt's difficulty, 1 to 6 a prompt."""
    values, names = [], []
    for prompt in range(prompts):
        level = rng.normal()
        for _ in range(rng.integers(1, 7)):
            values.append(level + 0.1 * rng.normal())
            names.append(f"p{prompt}")
    return np.array(values), names


def test_bootstrap_is_the_loop_over_resampled_prompts() -> None:
    values, names = clustered(np.random.default_rng(0), 23)
    interval = bootstrap_mean(values, names, Bootstrap(resamples=300, seed=5))

    rng = np.random.default_rng(5)
    distinct = sorted(set(names))
    means = []
    for _ in range(300):
        rows: list[float] = []
        for drawn in rng.integers(len(distinct), size=len(distinct)):
            rows += [v for v, name in zip(values, names, strict=True) if name == distinct[drawn]]
        means.append(sum(rows) / len(rows))
    assert interval.n == len(values)
    assert interval.mean == pytest.approx(sum(values) / len(values), rel=1e-12)
    assert interval.low == pytest.approx(np.percentile(means, 2.5), rel=1e-12)
    assert interval.high == pytest.approx(np.percentile(means, 97.5), rel=1e-12)


def test_interval_is_as_wide_as_prompts_vary_not_as_rows_do() -> None:
    values, names = clustered(np.random.default_rng(1), 400)
    interval = bootstrap_mean(values, names, Bootstrap(resamples=2000, seed=0))
    half = (interval.high - interval.low) / 2 / 1.96
    _, of_prompt = np.unique(names, return_inverse=True)
    residuals = np.bincount(of_prompt, weights=values - values.mean())
    by_prompt = np.sqrt(np.square(residuals).sum()) / len(values)  # linearised standard error, clusters = prompts
    by_row = values.std() / np.sqrt(len(values))
    assert half == pytest.approx(by_prompt, rel=0.08)
    assert half > 1.5 * by_row


def test_interval_holds_the_truth_about_19_times_of_20() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(300):
        values, names = clustered(rng, 60)
        interval = bootstrap_mean(values, names, Bootstrap(resamples=200, seed=seed))
        hits += interval.low <= 0.0 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def test_result_depends_on_neither_the_order_of_prompts_nor_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values, names = clustered(np.random.default_rng(3), 11)
    values = np.round(values)  # sums are exact in any order
    whole = bootstrap_mean(values, names, Bootstrap(resamples=100, seed=1))
    monkeypatch.setattr(intervals, "_DRAWS", 33)
    assert bootstrap_mean(values[::-1], names[::-1], Bootstrap(resamples=100, seed=1)) == whole
    assert bootstrap_mean(values, names, Bootstrap(resamples=100, seed=2)) != whole


def test_one_prompt_gives_an_interval_of_no_width() -> None:
    interval = bootstrap_mean([1.0, 0.0], ["p", "p"], Bootstrap(resamples=100, seed=0))
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.5, 0.5, 0.5, 2)


def test_win_rate_counts_ties_half_and_leaves_out_what_says_nothing() -> None:
    outcomes = ["a", "a", "a", "b", "tie", "tie", "abstain", "error", "error"]
    rate = win_rate(outcomes, [f"p{i}" for i in range(9)], Bootstrap(resamples=100, seed=0))
    assert rate is not None
    assert rate.mean == pytest.approx((3 + 2 * 0.5) / 6)
    assert rate.n == 6
    assert excluded(outcomes) == {"abstain": 1, "error": 2}


def test_win_rate_is_over_comparisons_not_over_prompts() -> None:
    rate = win_rate(["a", "a", "a", "b"], ["p", "p", "p", "q"], Bootstrap(resamples=100, seed=0))
    assert rate is not None
    assert rate.mean == 0.75


def test_no_winner_anywhere_is_no_rate() -> None:
    assert win_rate(["abstain", "error"], ["p", "q"], Bootstrap(resamples=100, seed=0)) is None


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), 1.0]])
def test_nothing_or_not_a_number_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no values to average|not finite"):
        bootstrap_mean(values, ["p"] * len(values), Bootstrap(resamples=100, seed=0))


def test_unknown_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown outcomes: \['A'\]"):
        win_rate(["A"], ["p"], Bootstrap(resamples=100, seed=0))
