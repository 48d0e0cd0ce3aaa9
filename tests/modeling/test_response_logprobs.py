"""Log-probabilities of padded batches against one plain float64 forward per row, for several architectures."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from tasks.modeling.logprobs import TokenSequence, batches, sequence_logprobs, summed_logprobs, token_logprobs
from tests.modeling.architectures import VOCABULARY, build

#: Between them: tied embeddings, biases, learned positions, partial rotary embeddings, soft-capping, and sliding
#: windows shorter than the sequences below.
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


def in_dtype(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    untyped: Any = model  # transformers' types do not allow this call of `to`
    converted: PreTrainedModel = untyped.to(dtype)
    return converted


def plain(model: PreTrainedModel, row: TokenSequence) -> torch.Tensor:
    """One row alone: no padding, no mask, no positions, all logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*row.prompt, *row.response]])).logits[0].double()
    start = len(row.prompt)
    return torch.stack(
        [logits[start + i - 1].log_softmax(-1)[int(token)] for i, token in enumerate(row.response)]
    )  # the token at start + i is predicted one position before


def test_batch_in_float64_equals_the_rows_one_by_one(model: PreTrainedModel) -> None:
    model.set_attn_implementation("sdpa")  # eager computes softmax in float32, in which float64's masks overflow
    rows = sequences()
    with torch.no_grad():
        batched = token_logprobs(model, rows)
    for row, logprobs in zip(rows, batched, strict=True):
        assert logprobs.shape == (len(row.response),)
        assert logprobs.dtype == torch.float64
        torch.testing.assert_close(logprobs, plain(model, row), atol=1e-10, rtol=1e-10)


def test_batch_in_float32_equals_the_rows_one_by_one(model: PreTrainedModel) -> None:
    rows = sequences(1)
    exact = np.array([plain(model, row).sum().item() for row in rows])
    np.testing.assert_allclose(sequence_logprobs(in_dtype(model, torch.float32), rows, tokens=100), exact, atol=5e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_are_computed_in_float32_at_least(dtype: torch.dtype) -> None:
    with torch.no_grad():
        assert {logprobs.dtype for logprobs in token_logprobs(in_dtype(build("llama"), dtype), sequences())} == {
            torch.float32
        }


def test_gradient_is_that_of_the_plain_forward() -> None:
    model = build("llama-tied")
    rows = sequences(2)
    weights = torch.arange(1, len(rows) + 1, dtype=torch.float64)
    (weights @ summed_logprobs(model, rows)[0]).backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for weight, row in zip(weights, rows, strict=True):
        logits = model(input_ids=torch.tensor([[*row.prompt, *row.response]])).logits[0]
        logprobs = logits.log_softmax(-1)[len(row.prompt) - 1 : -1]
        total = total + weight * logprobs.gather(1, torch.tensor(row.response)[:, None]).sum()
    total.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-9, rtol=1e-9, msg=name)


def test_sums_are_those_of_the_tokens_whatever_the_batches() -> None:
    model = in_dtype(build("qwen2"), torch.float32)
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
    model = in_dtype(build("llama"), torch.float32)
    rows = [TokenSequence([1, 2], []), TokenSequence([1, 2], [3])]
    sums = sequence_logprobs(model, rows, tokens=100)
    assert sums[0] == 0.0
    assert sums[1] == pytest.approx(plain(model, rows[1]).item(), abs=1e-5)


def test_log_probability_that_is_not_finite_is_refused() -> None:
    model = in_dtype(build("llama"), torch.float32)
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
