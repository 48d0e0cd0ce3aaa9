"""From pairs to rows of storage.schemas.PREFERENCES with token ids, as the chat template writes them."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from storage.prompts import prompt_id
from tasks.mixing.shapes.pair import OfflinePair
from tasks.modeling.conversation import RefusedConversation, encode_reply
from tasks.modeling.special_text import SpecialText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class OfflineCounts:
    """What was read. rows: pairs that were read. equal: with two equal responses, left out. repeated: pairs that come
    again. contradicted: pairs that come again the other way round."""

    rows: int = 0
    equal: int = 0
    repeated: int = 0
    contradicted: int = 0


@dataclass
class PairEncoder:
    """Encodes pairs one by one. Keeps 16 bytes of each response, and no text, so that large sets can be read."""

    tokenizer: "PreTrainedTokenizerBase"
    counts: OfflineCounts = field(default_factory=OfflineCounts)
    special: SpecialText = field(init=False)
    _numbers: dict[str, dict[bytes, int]] = field(default_factory=dict)  # prompt -> response -> its index
    _pairs: set[tuple[str, int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.special = SpecialText(self.tokenizer)

    def row(self, pair: OfflinePair) -> dict[str, Any] | None:
        """The pair as round 0; None when its responses are equal. Each response ends with the token that ends turns.

        The standard error of the target is unknown (NaN), and there are no votes. Raises UserError, with file and row,
        when the chat template refuses the conversation.
        """
        self.counts.rows += 1
        if pair.chosen == pair.rejected:
            self.counts.equal += 1
            return None
        identifier, texts = prompt_id(pair.prompt), (pair.chosen, pair.rejected)
        self.special.look([*(message["content"] for message in pair.prompt), *texts], pair.where)
        chosen, rejected = self._indices(identifier, texts)
        try:
            first, second = (encode_reply(self.tokenizer, pair.prompt, text) for text in texts)
        except RefusedConversation as refused:
            raise refused.at(pair.where) from None
        return {
            "prompt": pair.prompt,
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "prompt_id": identifier,
            "round": 0,
            "chosen_index": chosen,
            "rejected_index": rejected,
            "p_hat": pair.p_hat,
            "target": math.log(pair.p_hat / (1 - pair.p_hat)),
            "target_se": math.nan,
            **dict.fromkeys(("votes_chosen", "votes_rejected", "votes_tie"), 0.0),
            **dict.fromkeys(("votes_abstain", "votes_error"), 0),
            "prompt_ids": first.prompt_ids,
            "chosen_ids": first.reply_ids,
            "rejected_ids": second.reply_ids,
            "chosen_finish_reason": "stop",
            "rejected_finish_reason": "stop",
        }

    def _indices(self, prompt: str, texts: tuple[str, str]) -> tuple[int, int]:
        """The numbers of the two responses within their prompt; counts pairs that come again."""
        numbers = self._numbers.setdefault(prompt, {})
        names = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        chosen, rejected = (numbers.setdefault(name, len(numbers)) for name in names)
        self.counts.repeated += (prompt, chosen, rejected) in self._pairs
        self.counts.contradicted += (prompt, rejected, chosen) in self._pairs
        self._pairs.add((prompt, chosen, rejected))
        return chosen, rejected
