"""A random policy of half a billion weights with a tokenizer, and prompts for it. Nothing is downloaded."""

import json
from pathlib import Path

from benchmarks.tiny import build_policy

PROMPTS = 32
_SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "initializer_range": 0.02,
}


def build_random_policy(folder: Path, *, tiny: bool) -> Path:
    """Save a random Llama of 0.49 billion weights in bfloat16; `tiny`: one of 0.1 million."""
    build_policy(folder, seed=0)
    if tiny:
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    small = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = LlamaConfig.from_dict(small | _SIZES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        torch.nn.Module.to(model, torch.bfloat16)
        model.save_pretrained(folder)
    return folder


def write_prompts(path: Path) -> Path:
    """PROMPTS different questions as JSONL."""
    lines = [json.dumps({"prompt": f"what is the sum of {number} and {number + 3}"}) for number in range(PROMPTS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
