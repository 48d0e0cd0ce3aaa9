"""The sampler's check: rounding in half precision passes, however short replies are; other weights do not."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.generation.verify import (
    Gap,
    SamplerMismatch,
    Scored,
    choose,
    clustered_mean,
    measure_gap,
    refuse_mismatch,
)
from tasks.modeling.load import load_policy
from tasks.modeling.logprobs import TokenSequence


def sampled(policy: Path, lengths: Sequence[int]) -> list[Scored]:
    """Replies of these lengths, sampled in float32, with their log-probabilities: an exact sampler."""
    model = load_policy(policy, dtype="float32", device="cpu")
    rng = np.random.default_rng(0)
    scored = []
    for length in lengths:
        prompt = rng.integers(3, 300, 8).tolist()
        ids, logprobs = list(prompt), []
        for _ in range(length):
            with torch.inference_mode():
                after = model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
            ids.append(int(rng.choice(len(after), p=after.exp().numpy() / float(after.exp().sum()))))
            logprobs.append(float(after[ids[-1]]))
        scored.append(Scored(TokenSequence(prompt, ids[len(prompt) :]), logprobs))
    return scored


def gaps_of(policy: Path, scored: Sequence[Scored]) -> list[np.ndarray]:
    """Each reply's gaps in bfloat16, one reply at a time."""
    model = load_policy(policy, dtype="bfloat16", device="cpu")
    found = []
    for one in scored:
        ids = torch.tensor([[*one.sequence.prompt, *one.sequence.response]])
        start = len(one.sequence.prompt)
        with torch.inference_mode():
            logits = model(ids).logits[0, start - 1 : -1].float()
        exact = logits.log_softmax(-1).gather(1, ids[0, start:, None])[:, 0]
        found.append(np.abs(np.asarray(one.logprobs) - exact.double().numpy()))
    return found


def test_replies_of_one_to_six_tokens_in_bfloat16_pass(tiny_policy: Path) -> None:
    """One short reply is off by more than is allowed in the mean; all of them together are not."""
    scored = sampled(tiny_policy, [1, 2, 3, 4, 5, 6] * 4)
    gaps = gaps_of(tiny_policy, scored)
    allowed = 0.06
    assert max(gap.mean() for gap in gaps) > allowed > 1.3 * np.concatenate(gaps).mean()
    refuse_mismatch(
        measure_gap(tiny_policy, scored, dtype="bfloat16"), tiny_policy, dtype="bfloat16", tolerance=allowed
    )


def test_other_weights_are_refused_on_eight_short_replies(make_policy: Callable[..., Path], tiny_policy: Path) -> None:
    scored = sampled(make_policy(seed=1), [1, 2, 3, 4, 5, 6, 1, 2])
    gap = measure_gap(tiny_policy, scored, dtype="bfloat16")
    with pytest.raises(SamplerMismatch, match="over all tokens"):
        refuse_mismatch(gap, tiny_policy, dtype="bfloat16", tolerance=None)


def test_one_wrong_engine_of_eight_is_refused(make_policy: Callable[..., Path], tiny_policy: Path) -> None:
    """The mean over all replies is within its error of what is allowed; the reply of the wrong engine is not."""
    scored = [*sampled(tiny_policy, [20] * 7), *sampled(make_policy(seed=1), [20])]
    gap = measure_gap(tiny_policy, scored, dtype="bfloat16")
    assert not gap.overall.exceeds(0.1)
    with pytest.raises(SamplerMismatch, match="in one response"):
        refuse_mismatch(gap, tiny_policy, dtype="bfloat16", tolerance=None)


def test_a_gap_that_is_not_a_number_is_refused(tiny_policy: Path) -> None:
    gap = Gap.of([np.array([0.0, np.nan]), np.zeros(3)])
    with pytest.raises(SamplerMismatch):
        refuse_mismatch(gap, tiny_policy, dtype="bfloat16", tolerance=None)


def test_the_error_of_the_mean_is_that_of_independent_replies() -> None:
    """Against the spread of means over many drawn sets of replies, whose tokens share their reply's level."""
    rng = np.random.default_rng(0)

    def draw() -> list[np.ndarray]:
        return [rng.gamma(2.0, 0.01) + rng.exponential(0.02, rng.integers(1, 30)) for _ in range(120)]

    means = [clustered_mean(draw()) for _ in range(300)]
    spread = np.std([mean.value for mean in means])
    assert np.mean([mean.error for mean in means]) == pytest.approx(spread, rel=0.12)
    alone = clustered_mean([np.array([1.0, 2.0, 3.0, 6.0])])
    assert alone.value == 3.0
    assert alone.error == pytest.approx(np.std([1, 2, 3, 6], ddof=1) / 2)


def test_more_short_replies_than_long_ones_are_verified() -> None:
    assert choose([100] * 50, 8) == [i * 50 // 8 for i in range(8)]
    assert len(choose([4] * 500, 8)) == 64
    assert choose([2, 1, 3], 8) == [0, 1, 2]
