"""Random models and prompt groups of realistic lengths."""

from typing import Any

import numpy as np

from tasks.training.groups import Pair, PromptGroup

VOCABULARY = 4096
LARGE_VOCABULARY = 32000


def build_model(vocabulary: int) -> Any:
    """A random Llama of 6 layers, width 256, tied head, float32: 6.2 million parameters with 4,096 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    ).eval()


def build_groups(prompts: int, responses: int, vocabulary: int, seed: int = 5) -> list[PromptGroup]:
    """Prompts of lognormal(median 150, sigma 0.8) tokens, responses of lognormal(200, 0.65), 8 to 512; all pairs."""
    rng = np.random.default_rng(seed)

    def ids(median: float, sigma: float) -> np.ndarray:
        length = int(np.clip(rng.lognormal(np.log(median), sigma), 8, 512))
        return rng.integers(3, vocabulary, size=length).astype(np.int32)

    return [
        PromptGroup(
            prompt_id=str(number),
            round=1,
            prompt_ids=ids(150, 0.8),
            indices=list(range(responses)),
            responses=[ids(200, 0.65) for _ in range(responses)],
            pairs=[Pair(i, j, 1.0) for i in range(responses) for j in range(i + 1, responses)],
        )
        for number in range(prompts)
    ]
