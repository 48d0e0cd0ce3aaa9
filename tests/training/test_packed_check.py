"""The check of packed rows: which models pass and which are refused."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from storage.errors import UserError
from tasks.training import attention
from tasks.training.batching import PackedForward
from tasks.training.groups import PromptGroup
from tasks.training.packed_check import check_rows, checked_packed_forward, select_groups
from tasks.training.trainer import run
from tests.modeling.architectures import SMALL, VOCABULARY, build
from tests.training.conftest import MakeSpec


def groups() -> list[PromptGroup]:
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(VOCABULARY, size=length).astype(np.int32)

    return [
        PromptGroup(str(i), 1, ids(size), [0, 1], [ids(size), ids(2 * size)], []) for i, size in enumerate((9, 3, 1, 2))
    ]


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma2", "gpt2"])
def test_supported_models_pass(name: str) -> None:
    model = build(name).float()
    checked_packed_forward(model, groups(), nullcontext, tokens=1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_ignored_sliding_window_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check, log-probabilities would silently be wrong."""

    def without_window(*arguments: Any, sliding_window: int | None = None, **options: Any) -> Any:
        return packed(*arguments, **options)

    packed = attention.packed_attention
    monkeypatch.setattr(attention, "packed_attention", without_window)
    with pytest.raises(UserError, match="differ from plain rows") as refused:
        checked_packed_forward(build("mistral-window").float(), groups(), nullcontext, tokens=1)
    assert "training.batching=plain" in refused.value.remedy


def test_a_wrong_gradient_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the log-probabilities are right and only the gradient is wrong."""

    def detached(module: Any, query: Any, key: Any, *arguments: Any, **options: Any) -> Any:
        return packed(module, query, key.detach() if "packed_row" in options else key, *arguments, **options)

    packed = attention.packed_attention
    monkeypatch.setattr(attention, "packed_attention", detached)
    with pytest.raises(UserError, match="the gradient by"):
        checked_packed_forward(build("llama").float(), groups(), nullcontext, tokens=1)


def half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma2", "qwen3"])
def test_half_precision_is_compared_with_its_own_error(name: str) -> None:
    """The error that is allowed is that of plain rows; a right model's packed rows are about as exact."""
    compared = check_rows(PackedForward(build(name).float(), 1), groups(), half)
    assert compared.holds
    assert compared.logprobs < 0.75 * compared.allowed[0]
    assert compared.gradient < 0.75 * compared.allowed[1]


def test_in_half_precision_an_ignored_window_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_window(*arguments: Any, sliding_window: int | None = None, **options: Any) -> Any:
        return packed(*arguments, **options)

    packed = attention.packed_attention
    monkeypatch.setattr(attention, "packed_attention", without_window)
    compared = check_rows(PackedForward(build("mistral-window").float(), 1), groups(), half)
    assert compared.logprobs > 2 * compared.allowed[0]


def test_a_recurrent_model_is_refused() -> None:
    model = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=1)
    ).eval()
    with pytest.raises(UserError, match="cannot be trained on packed rows"):
        checked_packed_forward(model, groups(), nullcontext, tokens=1)


def test_selects_small_groups_and_one_beyond_the_sliding_window() -> None:
    config = transformers.MistralConfig(**SMALL, sliding_window=20)
    assert [group.prompt_id for group in select_groups(groups(), config)] == ["0", "2", "3"]
    assert [group.prompt_id for group in select_groups(groups(), transformers.LlamaConfig(**SMALL))] == ["2", "3", "1"]


def test_plain_rows_train_to_the_same_weights(make_spec: MakeSpec) -> None:
    """The same update up to rounding, under another stage key."""
    packed, plain = (make_spec(kind, optimization={"batching": kind}) for kind in ("packed", "plain"))
    assert packed.key() == make_spec("default").key() != plain.key()
    weights = []
    for spec in (packed, plain):
        run(spec)
        weights.append(load_file(spec.folder / "policy" / "model.safetensors"))
    start = load_file(packed.policy.path / "model.safetensors")
    for name, value in weights[0].items():
        moved = float((value - start[name]).norm())
        assert float((value - weights[1][name]).norm()) < 1e-2 * moved, name
    assert not all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_model_that_fails_the_check_is_not_trained(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise TypeError("another architecture")

    monkeypatch.setattr(attention, "packed_attention", broken)
    with pytest.raises(UserError, match="TypeError: another architecture"):
        run(make_spec("packed"))
    run(make_spec("plain", optimization={"batching": "plain"}))
