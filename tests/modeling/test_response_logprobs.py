"""Log-probabilities of padded batches against one plain float64 forward a row, for each architecture that differs."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from tasks.modeling.logprobs import TokenSequence, batches, sequence_logprobs, summed_logprobs, token_logprobs
from tests.modeling.architectures import VOCABULARY, build

#: Each with what is its own: tied heads, biases, learned positions, partial rotary, soft-capping, sliding windows
#: shorter than the sequences below.
CHECKED = ("gemma2", "gpt-neox", "gpt2", "llama", "llama-tied", "mistral-window", "qwen2")


def sequences(seed: int = 0) -> list[TokenSequence]:
    """Prompts and responses of 1 to 20 tokens, the shortest beside the longest."""
    rng = np.random.default_rng(seed)
    lengths = [(1, 1), (20, 20), (1, 20), (20, 1), (3, 7), (12, 2), (5, 5)]
    return [
        TokenSequence(rng.integers(VOCABULARY, size=p).tolist(), rng.integers(VOCABULARY, size=r).tolist())
        for p, r in lengths
    ]


@pytest.fixture(params=CHECKED)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return build(request.param)


def plain(model: PreTrainedModel, row: TokenSequence) -> torch.Tensor:
    """One row by itself: no padding, no mask, no positions, the full logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*row.prompt, *row.response]])).logits[0].double()
    start = len(row.prompt)
    return torch.stack(
        [logits[start + i - 1].log_softmax(-1)[int(token)] for i, token in enumerate(row.response)]
    )  # the token at start + i is predicted one position before


def test_batch_in_float64_is_the_rows_one_by_one(model: PreTrainedModel) -> None:
    model.set_attn_implementation("sdpa")  # the other one's softmax is in float32, where float64's masks overflow
    rows = sequences()
    with torch.no_grad():
        found = token_logprobs(model, rows)
    for row, logprobs in zip(rows, found, strict=True):
        assert logprobs.shape == (len(row.response),)
        assert logprobs.dtype == torch.float64
        torch.testing.assert_close(logprobs, plain(model, row), atol=1e-10, rtol=1e-10)


def test_batch_in_float32_is_the_rows_one_by_one(model: PreTrainedModel) -> None:
    rows = sequences(1)
    exact = [plain(model, row).sum().item() for row in rows]
    np.testing.assert_allclose(sequence_logprobs(model.float(), rows, tokens=100), exact, atol=5e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_are_taken_in_float32_at_least(dtype: torch.dtype) -> None:
    with torch.no_grad():
        assert {found.dtype for found in token_logprobs(build("llama").to(dtype), sequences())} == {torch.float32}


def test_gradient_is_that_of_the_plain_forward() -> None:
    model = build("llama-tied")
    rows = sequences(2)
    weights = torch.arange(1, len(rows) + 1, dtype=torch.float64)
    (weights @ summed_logprobs(model, rows)[0]).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for weight, row in zip(weights, rows, strict=True):
        logits = model(input_ids=torch.tensor([[*row.prompt, *row.response]])).logits[0]
        logprobs = logits.log_softmax(-1)[len(row.prompt) - 1 : -1]
        total = total + weight * logprobs.gather(1, torch.tensor(row.response)[:, None]).sum()
    total.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-9, rtol=1e-9, msg=name)


def test_sums_are_those_of_the_tokens_whatever_the_batches() -> None:
    model = build("qwen2").float()
    rows = sequences(3)
    calls: list[tuple[int, int, str]] = []
    whole = sequence_logprobs(model, rows, tokens=10_000)
    single = sequence_logprobs(model, rows, tokens=1, progress=lambda *call: calls.append(call))
    np.testing.assert_allclose(whole, single, atol=1e-4)
    np.testing.assert_allclose(whole, summed_logprobs(model, rows)[0].detach().numpy(), atol=1e-6)
    assert calls == [(i + 1, len(rows), "responses") for i in range(len(rows))]
    arrays = [TokenSequence(np.array(row.prompt, np.int32), np.array(row.response, np.int32)) for row in rows]
    np.testing.assert_array_equal(sequence_logprobs(model, arrays, tokens=10_000), whole)


def test_response_of_no_tokens_has_log_probability_zero() -> None:
    model = build("llama").float()
    rows = [TokenSequence([1, 2], []), TokenSequence([1, 2], [3])]
    sums = sequence_logprobs(model, rows, tokens=100)
    assert sums[0] == 0.0
    assert sums[1] == pytest.approx(plain(model, rows[1]).item(), abs=1e-5)


def test_log_probability_that_is_not_finite_is_refused() -> None:
    model = build("llama").float()
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(FloatingPointError, match="7 of 7 log-probabilities are not finite"):
        sequence_logprobs(model, sequences(), tokens=100)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=40),
    tokens=st.integers(1, 200),
)
@settings(max_examples=200, deadline=None)
def test_batches_hold_every_row_once_within_the_budget(lengths: list[tuple[int, int]], tokens: int) -> None:
    rows = [TokenSequence([0] * prompt, [0] * response) for prompt, response in lengths]
    made = batches(rows, tokens)
    assert sorted(index for batch in made for index in batch) == list(range(len(rows)))
    widths = [max(len(rows[index]) for index in batch) for batch in made]
    assert widths == sorted(widths, reverse=True)
    for batch, width in zip(made, widths, strict=True):
        assert len(batch) == 1 or width * len(batch) <= tokens
    for before, after in pairwise(made):  # no batch was closed while the next row still fitted
        assert (len(before) + 1) * len(rows[before[0]]) > tokens
        assert len(rows[after[0]]) <= len(rows[before[-1]])
