"""Texts in which a tokenizer reads special tokens, such as <|im_end|>: usually a template has rendered them before.

A tokenizer makes no difference between a special token that a chat template writes and the same characters in a text.
"""

import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tasks.modeling.reasoning import THOUGHT_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("irepo")


class SpecialText:
    """Counts the rows whose texts hold a special token, other than those around a thought, and warns of them once."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        names = sorted((token for token in special if token.strip() and token not in THOUGHT_TOKENS), key=len)
        self._pattern = re.compile("|".join(map(re.escape, reversed(names)))) if names else None
        self._rows, self._first = 0, ""

    def look(self, texts: Iterable[str], where: str) -> None:
        """Look at the texts of one row."""
        found = next((match for text in texts if self._pattern and (match := self._pattern.search(text))), None)
        if found is not None:
            self._rows += 1
            self._first = self._first or f"{found[0]!r} at {where}"

    def warn(self) -> None:
        """Say how many rows hold one, if any does."""
        if self._rows:
            log.warning(
                "%d rows hold special tokens of the tokenizer, the first %s: they are read as these tokens, not as "
                "text. Texts are to be given without a chat template, which the run applies itself",
                self._rows,
                self._first,
            )
