"""Tiny random models of many architectures, on which log-probabilities are checked."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCABULARY = 50
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 4}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


def _of(name: str, **options: Any) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        model = getattr(transformers, f"{name}ForCausalLM", None) or getattr(transformers, f"{name}LMHeadModel")
        configuration: type[Any] = model.config_class
        implementation = "eager" if "attn_logit_softcapping" in options else None
        built: PreTrainedModel = model._from_config(
            configuration(**SMALL | options), attn_implementation=implementation
        )
        return built

    return build


MODELS = {
    "llama": _of("Llama"),
    "llama-tied": _of("Llama", tie_word_embeddings=True),
    "mistral": _of("Mistral", sliding_window=None),
    "mistral-window": _of("Mistral", **WINDOW),
    "qwen2": _of("Qwen2"),
    "qwen2-window": _of("Qwen2", use_sliding_window=True, max_window_layers=1, **WINDOW),
    "qwen3": _of("Qwen3", head_dim=8),
    "phi": _of("Phi"),
    "phi3": _of("Phi3"),
    "gemma2": _of(
        "Gemma2", head_dim=8, final_logit_softcapping=3.0, attn_logit_softcapping=2.0, layer_types=MIXED, **WINDOW
    ),
    "gemma3": _of("Gemma3", head_dim=8, layer_types=MIXED, **WINDOW),
    "olmo2": _of("Olmo2"),
    "gpt2": _of("GPT2", n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt-neox": _of("GPTNeoX"),
    "opt": _of("OPT", ffn_dim=48, word_embed_proj_dim=32, init_std=0.3),
    "cohere": _of("Cohere", logit_scale=0.1),
}


def build(name: str) -> PreTrainedModel:
    """The model of MODELS called `name`, in float64, with the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = MODELS[name]()
        built: PreTrainedModel = model.double().eval()
        return built
