"""Packed rows against one plain forward per response: log-probabilities and gradients, for each architecture."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from tasks.modeling.head import output_layer
from tasks.training.attention import NAME
from tasks.training.batching import PackedForward, PlainForward
from tasks.training.groups import PromptGroup
from tasks.training.packing import PackedRow, first_fit, packed_tokens
from tasks.training.policy import add_adapters, checkpoint_activations
from tasks.training.settings import LoraSettings
from tests.modeling.architectures import MODELS, VOCABULARY, build

#: Tokens of prompts and their responses: single tokens and lengths above the sliding windows, all in one row.
LENGTHS = [(9, (7, 12)), (1, (1, 20, 5)), (20, (1, 2, 11, 6)), (3, (4,))]


def groups(lengths: list[tuple[int, tuple[int, ...]]] = LENGTHS) -> list[PromptGroup]:
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(VOCABULARY, size=length).astype(np.int32)

    return [
        PromptGroup(str(number), 1, ids(prompt), list(range(len(sizes))), [ids(size) for size in sizes], [])
        for number, (prompt, sizes) in enumerate(lengths)
    ]


def alone(model: PreTrainedModel, data: list[PromptGroup]) -> Tensor:
    """Token log-probabilities by one forward per response: no padding, mask or positions, full logits."""

    def tokens() -> Iterator[Tensor]:
        for group in data:
            for response in group.responses:
                ids = torch.tensor([[*group.prompt_ids.tolist(), *response.tolist()]])
                logprobs = model(input_ids=ids).logits[0].log_softmax(-1)[len(group.prompt_ids) - 1 : -1]
                yield logprobs.gather(1, ids[0, len(group.prompt_ids) :, None])[:, 0]

    return torch.cat(list(tokens()))


def with_gradient(model: PreTrainedModel, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The token log-probabilities, and the gradient of their sum with a different weight for each."""
    model.zero_grad()
    (torch.cos(torch.arange(len(tokens), dtype=tokens.dtype)) @ tokens).backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return tokens.detach(), torch.cat(gradients)


def agree(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float) -> None:
    assert actual[0].shape == expected[0].shape
    assert float((actual[0] - expected[0]).abs().max()) < tolerance
    assert float((actual[1] - expected[1]).norm() / expected[1].norm()) < tolerance


@pytest.mark.parametrize("by_mask", [False, True], ids=["segments", "mask"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_packed_rows_equal_single_responses(name: str, by_mask: bool) -> None:
    """With float64 weights; some models still compute norms, rotations and softmax in float32."""
    model, data = build(name), groups()
    expected = with_gradient(model, alone(model, data))
    forward = PackedForward(model, 1000, by_mask=by_mask)
    assert (model.config._attn_implementation == NAME) is not by_mask
    sums, tokens = forward.logprobs(data)
    agree(with_gradient(model, tokens), expected, 2e-6)
    lengths = [len(response) for group in data for response in group.responses]
    torch.testing.assert_close(
        sums, torch.stack([part.sum() for part in expected[0].split(lengths)]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", sorted(MODELS))
def test_forwards_without_packed_rows_do_not_change(name: str) -> None:
    """A policy whose attention is set up for packed rows still generates and embeds."""
    model, data = build(name), groups()
    with torch.no_grad():
        expected = alone(model, data)
        PackedForward(model, 1000)
        torch.testing.assert_close(alone(model, data), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(PlainForward(model, 1).logprobs(data)[1], expected, atol=1e-6, rtol=0)


def test_models_whose_head_is_more_than_a_matrix() -> None:
    names = {name for name in MODELS if output_layer(build(name)) is None}
    assert names == {"gemma2", "cohere"}


def adapted() -> PreTrainedModel:
    model = add_adapters(build("llama"), LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # B starts at 0, where A has no gradient
                parameter.normal_(std=0.1)
    return model  # type: ignore[return-value]


def recomputing() -> PreTrainedModel:
    model = build("llama")
    checkpoint_activations(model)
    return model


@pytest.mark.parametrize("make", [adapted, recomputing])
def test_adapters_and_recomputed_activations(make: Callable[[], PreTrainedModel]) -> None:
    model, data = make(), groups()
    expected = with_gradient(model, alone(model, data))
    agree(with_gradient(model, PackedForward(model, 1000).logprobs(data)[1]), expected, 1e-6)


def test_autocast_error_is_that_of_plain_rows() -> None:
    """bfloat16 products and float32 softmax: both layouts have errors of the same size."""
    model, data = build("llama").float(), groups()
    exact = with_gradient(model, alone(model, data))

    def errors(forward: PlainForward | PackedForward) -> tuple[float, float]:
        with torch.autocast("cpu", torch.bfloat16):
            tokens = forward.logprobs(data)[1]
        actual = with_gradient(model, tokens)
        return float((actual[0] - exact[0]).abs().mean()), float((actual[1] - exact[1]).norm() / exact[1].norm())

    plain, packed = errors(PlainForward(model, 1)), errors(PackedForward(model, 1000))
    assert packed != plain
    assert 0 < packed[0] < 2 * plain[0] < 0.2
    assert 0 < packed[1] < 2 * plain[1] < 0.2


@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=5).map(tuple)), max_size=30
    ),
    tokens=st.integers(1, 300),
)
@settings(max_examples=200, deadline=None)
def test_first_fit_holds_every_group_once_within_the_budget(
    lengths: list[tuple[int, tuple[int, ...]]], tokens: int
) -> None:
    data = groups(lengths)
    rows = first_fit(data, tokens)
    sizes = [packed_tokens(group) for group in data]
    assert sorted(index for row in rows for index in row) == list(range(len(data)))
    used = [sum(sizes[i] for i in row) for row in rows]
    assert all(total <= tokens or len(row) == 1 for total, row in zip(used, rows, strict=True))
    for before, after in pairwise(range(len(rows))):  # a row is opened only if its first group fits no earlier row
        largest = sizes[rows[after][0]]
        held = sum(size for i, size in ((i, sizes[i]) for i in rows[before]) if size >= largest and i != rows[after][0])
        assert held + largest > tokens
    for row in rows:
        assert PackedRow.of([data[i] for i in row], torch.device("cpu")).ids.shape[1] == sum(sizes[i] for i in row)


def test_sliding_window_counts_positions_not_row_indices() -> None:
    """The second response is far from its prompt in the row, but next to it in position."""
    row = PackedRow.of(groups([(2, (3, 3))]), torch.device("cpu"))
    assert row.positions.tolist() == [[0, 1, 2, 3, 2, 3]]
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]
    assert row.whole_mask(2)[0, 0].int().tolist() == expected
    assert row.predicting.tolist() == [1, 2, 3, 1, 4, 5]


def test_layout_for_variable_length_attention() -> None:
    row = PackedRow.of(groups([(2, (3, 1)), (1, (2,))]), torch.device("cpu"))
    places, (queries, keys), longest = row.variable_length
    assert places.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 4, 4, 5]
    assert queries.tolist() == [0, 2, 4, 4, 5, 6]
    assert keys.tolist() == [0, 2, 6, 8, 9, 11]
    assert longest == (2, 4)
