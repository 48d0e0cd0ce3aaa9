"""Prompts as token ids: the chat template, what does not fit the context, and the seed of each request."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from storage.errors import UserError
from storage.schemas import PREFIXES, PROMPTS, read_parquet, read_row_group, row_group_sizes
from tasks.generation.prompt_fit import refused_by_template, too_long
from tasks.generation.settings import GenerateSpec
from tasks.modeling.conversation import RefusedConversation, encode_chat, prepare_chats
from tasks.modeling.pretrained import read_config
from tasks.modeling.templates import AT_ONCE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptReader:
    """The prompts of a spec as token ids, any rows of the file. It holds the tokenizer and the prefixes, no prompts.

    max_model_len: tokens of the context.
    """

    def __init__(self, spec: GenerateSpec, tokenizer: "PreTrainedTokenizerBase", max_model_len: int) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._groups = list(accumulate(row_group_sizes(spec.prompts.path), initial=0))  # first row of each row group
        self._begun: dict[str, list[int]] = {}
        if spec.prefixes is not None:
            rows = read_parquet(spec.prefixes.path, PREFIXES)
            self._begun = dict(zip(rows["prompt_id"].to_pylist(), rows["prefix_ids"].to_pylist(), strict=True))

    def rows(self, start: int, stop: int) -> Iterator[tuple[str, np.ndarray]]:
        """(prompt_id, token ids as int32) of the prompts in rows [start, stop), each with its prefix.

        Raises UserError, with file and line, for a prompt that leaves no room for the response's tokens.
        """
        spec, max_tokens = self._spec, self._spec.settings.sampling.max_tokens
        for number, (first, after) in enumerate(pairwise(self._groups)):
            begin, end = max(first, start), min(after, stop)
            if begin >= end:
                continue
            columns = ["prompt_id", "messages", "source"]
            group = read_row_group(spec.prompts.path, number, PROMPTS, columns).slice(begin - first, end - begin)
            encoded = check_prompts(group, self._tokenizer, self._max_model_len, max_tokens)
            if spec.prefixes is not None:
                encoded = _continued(group, encoded, self._begun, self._max_model_len, max_tokens)
            for name, ids in zip(group["prompt_id"].to_pylist(), encoded, strict=True):
                yield name, np.asarray(ids, dtype=np.int32)


def check_prompts(
    prompts: pa.Table, tokenizer: "PreTrainedTokenizerBase", max_model_len: int, max_tokens: int
) -> list[list[int]]:
    """Token ids of every prompt (rows of storage.schemas.PROMPTS), the chat template applied once.

    Raises UserError, with file and line, for a prompt that the template refuses and for one that leaves no room for
    `max_tokens` response tokens.
    """
    encoded = []
    rows = prompts.select(["messages", "source"]).to_pylist()
    for number, row in enumerate(rows):
        if number % AT_ONCE == 0:
            prepare_chats(tokenizer, (each["messages"] for each in rows[number : number + AT_ONCE]))
        try:
            ids = encode_chat(tokenizer, row["messages"])
        except RefusedConversation as refused:
            raise refused_by_template(row["source"], refused) from None
        if len(ids) + max_tokens > max_model_len:
            raise too_long(row["source"], len(ids), context=max_model_len, max_tokens=max_tokens)
        encoded.append(ids)
    return encoded


def _continued(
    prompts: pa.Table, encoded: Sequence[list[int]], begun: dict[str, list[int]], context: int, max_tokens: int
) -> list[list[int]]:
    """Token ids of every prompt and of what its response begins with. Raises UserError as `check_prompts`."""
    result = []
    for name, source, ids in zip(*(prompts[c].to_pylist() for c in ("prompt_id", "source")), encoded, strict=True):
        result.append([*ids, *begun[name]])
        if len(result[-1]) + max_tokens > context:
            raise too_long(source, len(result[-1]), context=context, max_tokens=max_tokens)
    return result


def context_length(policy: Path, *, trust_remote_code: bool = False) -> int:
    """Tokens that the policy's positions reach to. Raises UserError when its config does not say."""
    config = read_config(policy, local_files_only=True, trust_remote_code=trust_remote_code)
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if length is None:
        raise UserError(
            "the policy does not say how long its context is: max_position_embeddings is missing",
            where=str(policy / "config.json"),
            remedy="say it: engine.max_model_len=<tokens>",
        )
    return int(length)


def request_seed(seed: int, draw: int, prompt_id: str) -> int:
    """Seed of one prompt's responses, 0 <= seed < 2**62: vLLM adds the response's index to it.

    draw: the round, unless the spec has a draw of its own.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{draw}/{prompt_id}".encode()).digest()[:8], "big") >> 2
