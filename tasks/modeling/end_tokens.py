"""The tokens that end a response of a policy."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import UserError
from tasks.modeling.conversation import turn_end
from tasks.modeling.load import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def end_tokens(policy: Path, *, trust_remote_code: bool = False) -> list[int]:
    """Ids of the tokens that end a response, sorted. All engines stop at exactly these.

    They are the tokenizer's end token, those of generation_config.json, and the token that ends a turn in the chat
    template, which in many folders is neither. Raises UserError when the template cannot be rendered.
    """
    ids: set[int] = set()
    path = policy / "generation_config.json"
    named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    if named is not None:
        ids |= {named} if isinstance(named, int) else set(named)
    tokenizer = load_tokenizer(policy, trust_remote_code=trust_remote_code)
    return sorted(ids | {end for end in (tokenizer.eos_token_id, _turn_token(tokenizer)) if isinstance(end, int)})


def last_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that ends a turn in the chat template, else the tokenizer's end token.

    Raises UserError for a tokenizer that has neither.
    """
    turn = _turn_token(tokenizer)
    end = turn if turn is not None else tokenizer.eos_token_id
    if not isinstance(end, int):
        raise UserError(
            "the tokenizer has no token that ends a response",
            where=str(tokenizer.name_or_path),
            remedy="name one as eos_token in its tokenizer_config.json",
        )
    return end


def _turn_token(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that ends a turn in the chat template; None without a template, or where it is no token."""
    return turn_end(tokenizer).token_id if tokenizer.chat_template is not None else None
