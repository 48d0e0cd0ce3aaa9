"""Copies of responses with key phrases taken out, for objectives that learn to tell how many are missing.

A copy is the response's text without its n best key phrases, an end token, and a label word: a token that says n. It is
part of no pair. The number n is drawn for each response, from 0 to the last label word, or to the phrases there are.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from storage.errors import UserError
from tasks.training.groups import PromptGroup, copy_index
from tasks.training.key_phrases import STOP_WORDS, key_phrases, without

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def label_tokens(tokenizer: "PreTrainedTokenizerBase", words: Sequence[str]) -> list[int]:
    """The token of each label word. Raises UserError unless each is one token of its own."""
    ids = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    # Tokenizers of the SentencePiece kind write a space before the word, which may be a token of its own.
    tokens = [parts[-1] if parts and str(tokenizer.decode(parts[-1:])).strip() == word else None
              for word, parts in zip(words, ids, strict=True)]  # fmt: skip
    known = [token for token in tokens if token is not None and token != tokenizer.unk_token_id]
    if len(set(known)) < len(words):
        raise UserError(
            f"the label words {', '.join(map(repr, words))} are not one token each in the policy's tokenizer",
            where="objective.labels",
            remedy="name short words that the tokenizer has, one for each number of missing phrases: "
            "objective.labels=[a,b,c,d]",
        )
    return known


def add_copies(
    groups: Sequence[PromptGroup],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    ends: Collection[int],
    end: int,
    labels: Sequence[int],
    stop_words: Sequence[str] = (),
    seed: tuple[int, ...],
) -> list[PromptGroup]:
    """Each group with a copy of every response, after the responses and in their order.

    ends: tokens that end a response; a response without one gets `end`. labels: the token that says 0 missing phrases,
    1, and so on. stop_words: further words that end a phrase. `seed` determines the draws.
    """
    generator = np.random.default_rng(seed)
    stops = STOP_WORDS | {word.lower() for word in stop_words}

    def copy(response: np.ndarray) -> np.ndarray:
        ids = response.tolist()
        last = ids.pop() if ids[-1] in ends else end
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
        phrases = key_phrases(text, stops)
        missing = int(generator.integers(min(len(labels) - 1, len(phrases)) + 1))
        if missing:
            ids = tokenizer.encode(without(text, phrases[:missing]), add_special_tokens=False)
        return np.array([*ids, last, labels[missing]], dtype=np.int32)

    return [
        replace(
            group,
            indices=[*group.indices, *map(copy_index, group.indices)],
            responses=[*group.responses, *map(copy, group.responses)],
        )
        for group in groups
    ]
