"""Sequences beyond the length at which a policy embeds positions in another way are refused, in every kind of row."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from storage.errors import UserError
from tasks.modeling.logprobs import TokenSequence, sequence_logprobs
from tasks.modeling.positions import position_limit
from tasks.training.batching import Forward, PackedForward, PlainForward
from tasks.training.groups import PromptGroup

LIMIT = 32
SHAPE: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    "original_max_position_embeddings": LIMIT,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


def build(kind: str, rope: dict[str, Any], positions: int) -> PreTrainedModel:
    options = {"original_max_position_embeddings": LIMIT} if kind == "phi3" else {}
    config = transformers.AutoConfig.for_model(
        kind, max_position_embeddings=positions, rope_parameters=rope, **SHAPE, **options
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    return model


CHANGING = {"phi3": (LONGROPE, 256), "llama": (DYNAMIC, LIMIT)}


def ids(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 60, length).astype(np.int32)


def group(*lengths: int) -> PromptGroup:
    """A prompt of 6 tokens with responses of these lengths."""
    return PromptGroup("a", 1, ids(6, 0), list(range(len(lengths))), [ids(n, n) for n in lengths], [])


@pytest.mark.parametrize("kind", CHANGING)
def test_one_long_sequence_would_change_its_neighbours(kind: str) -> None:
    """What the refusal is for, seen in transformers itself: the same tokens, with and without a distant position."""
    model = build(kind, *CHANGING[kind])
    tokens = torch.from_numpy(ids(8, 1).astype(np.int64))[None]
    near = torch.arange(8)[None]
    far = near.clone()
    far[0, -1] = LIMIT  # one position beyond the limit: 33 tokens
    with torch.no_grad():
        alone, beside = (model(tokens, position_ids=at).logits[0, :-1] for at in (near, far))
    assert float((alone - beside).abs().max()) > 1e-3
    assert position_limit(model.config) == LIMIT


def forwards(model: PreTrainedModel) -> list[Forward]:
    return [PackedForward(model, 512), PackedForward(model, 512, by_mask=True), PlainForward(model, 512)]


@pytest.mark.parametrize("kind", CHANGING)
def test_rows_within_the_limit_equal_each_sequence_alone(kind: str) -> None:
    model = build(kind, *CHANGING[kind])
    data = group(LIMIT - 6, 7, 3)
    alone = sequence_logprobs(model, [TokenSequence(data.prompt_ids, y) for y in data.responses], tokens=1)
    for forward in forwards(model):
        with torch.no_grad():
            sums = forward.logprobs([data])[0]
        torch.testing.assert_close(sums, torch.from_numpy(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", CHANGING)
def test_rows_beyond_the_limit_are_refused(kind: str) -> None:
    model = build(kind, *CHANGING[kind])
    data = group(LIMIT - 5, 7)
    for forward in forwards(model):
        with pytest.raises(UserError, match=f"has 33 tokens, and beyond {LIMIT} tokens") as refused:
            forward.logprobs([data])
        assert f"engine.max_model_len={LIMIT}" in refused.value.remedy
    with pytest.raises(UserError, match="has 33 tokens"):
        sequence_logprobs(model, [TokenSequence(data.prompt_ids, data.responses[0])], tokens=512)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": LIMIT},
        {"rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": LIMIT,
         "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ],
)  # fmt: skip
def test_other_embeddings_have_no_limit(rope: dict[str, Any]) -> None:
    model = build("llama", rope, 64)
    assert position_limit(model.config) is None
    tokens = torch.from_numpy(ids(8, 1).astype(np.int64))[None]
    far = torch.arange(8)[None]
    far[0, -1] = 50
    with torch.no_grad():
        alone, beside = model(tokens).logits[0, :-1], model(tokens, position_ids=far).logits[0, :-1]
    torch.testing.assert_close(alone, beside)


def test_a_limit_of_one_kind_of_layer_counts() -> None:
    config = transformers.Gemma3TextConfig(max_position_embeddings=LIMIT)
    config.rope_parameters = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": DYNAMIC,
    }
    assert position_limit(config) == LIMIT
