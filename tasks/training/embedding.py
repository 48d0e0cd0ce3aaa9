"""Prompt embeddings by a sentence encoder (mean pooling, as in sentence-transformers) or by the policy itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.errors import UserError
from tasks.modeling.pretrained import read_model, read_tokenizer, refuse_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POLICY = "policy"
_BATCH = 64  # prompts per forward


def find_embedder(name: str) -> Path:
    """The folder of a sentence encoder. A hub id is downloaded first; no model is loaded.

    Raises UserError when the folder or hub model does not exist, when its weights are not safetensors, when it does
    not use mean pooling, and when it brings code of its own.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(name)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise _refuse("this is not a model folder: it needs config.json and *.safetensors", name)
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.is_file() and not json.loads(pooling.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens"):
        raise _refuse("this encoder does not use mean pooling", name)
    refuse_code(folder)
    return folder


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise _refuse(
            f"there is no such folder, and the download from the hub failed: {str(error).splitlines()[0]}", name
        ) from None


def _refuse(what: str, name: str) -> UserError:
    return UserError(
        what,
        where=f"objective.embedder={name}",
        remedy="give a sentence-transformers folder or hub id (the paper uses all-MiniLM-L6-v2), or set "
        "objective.embedder=policy to use the policy's hidden states",
    )


def embed(folder: Path, texts: Sequence[str], device: str) -> np.ndarray:
    """Unit vectors of texts by the encoder in `folder`, float64 [len(texts), E].

    Texts are truncated to the encoder's max_seq_length (512 tokens if it names none).
    """
    model: Any = read_model("encoder", folder)[0]
    tokenizer = read_tokenizer(folder)
    limits = folder / "sentence_bert_config.json"
    longest = json.loads(limits.read_text(encoding="utf-8"))["max_seq_length"] if limits.is_file() else 512
    return _embed(model.to(device).eval(), tokenizer, texts, longest)


def embed_by_policy(
    policy: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> np.ndarray:
    """Unit vectors of texts, float64 [len(texts), E]: means of the policy's last hidden states. No chat template."""
    return _embed(policy, tokenizer, texts, int(getattr(policy.config, "max_position_embeddings", 512)))


def _embed(model: Any, tokenizer: Any, texts: Sequence[str], longest: int) -> np.ndarray:
    import torch

    vectors = []
    for start in range(0, len(texts), _BATCH):
        ids = [
            tokenizer(text, truncation=True, max_length=longest)["input_ids"] or [tokenizer.eos_token_id]
            for text in texts[start : start + _BATCH]
        ]
        width = max(map(len, ids))
        rows = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=model.device)
        with torch.no_grad():
            hidden = model(input_ids=rows, attention_mask=mask, output_hidden_states=True).hidden_states[-1].double()
        weights = mask[:, :, None].double()
        means = (hidden * weights).sum(1) / weights.sum(1)
        vectors.append(torch.nn.functional.normalize(means, dim=1).cpu().numpy())
    return np.concatenate(vectors)
