"""The responses of finished generate stages with their prompts, in an order that does not depend on shards."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.arrays import Bools, Ints
from storage.errors import UserError
from storage.manifest import BrokenManifest, read_manifest
from storage.schemas import PROMPTS, RESPONSES, read_parquet
from storage.shards import Shards
from tasks.modeling.reasoning import split_reasoning
from tasks.panel.annotators.protocol import Response
from tasks.panel.lazy_sequence import LazySequence

_RESPONSE_COLUMNS = ["prompt_id", "response_index", "finish_reason"]
_PROMPT_COLUMNS = ["messages", "answer", "category", "reference"]
_BLOCK = 4096  # prompts whose responses are compared at once


@dataclass(frozen=True)
class Responses:
    """All responses of one source, numbered by prompt, then index. Texts and token ids stay in their files.

    N responses to P prompts, at most K to each. `rows[p, k]` is the number of response k of prompt p, -1 if absent.
    """

    source: str
    prompt_ids: pa.Array  # [P]: prompts that have a response
    rows: Ints  # [P, K]
    prompt: Ints  # [N]: the prompt p of each response
    index: Ints  # [N]: the index k of each response
    ended: Bools  # [N]: False if the response was cut off
    shards: Shards  # storage.schemas.RESPONSES
    shard_rows: Ints  # [N]: the response's row in `shards`
    prompt_shards: Shards  # storage.schemas.PROMPTS
    prompt_shard_rows: Ints  # [P]: the prompt's row in `prompt_shards`
    reasoning_end: str | None = None  # what ends the thought of a reply; None: replies have none

    def __len__(self) -> int:
        return len(self.shard_rows)

    def table(self, numbers: Ints, columns: list[str]) -> pa.Table:
        """`columns` of storage.schemas.RESPONSES for the responses with these numbers."""
        return self.shards.take(self.shard_rows[numbers], columns)

    def prompt_table(self, prompts: Ints, columns: list[str]) -> pa.Table:
        """`columns` of storage.schemas.PROMPTS for these prompts (rows of `rows`)."""
        return self.prompt_shards.take(self.prompt_shard_rows[prompts], columns)

    def for_annotators(self, start: int, stop: int) -> list[Response]:
        """The responses `start` .. `stop` - 1 as annotators see them: without the thoughts of reasoning replies."""
        prompts, which = np.unique(self.prompt[start:stop], return_inverse=True)
        names = self.prompt_ids.take(prompts).to_pylist()
        prompt_fields = self.prompt_table(prompts, _PROMPT_COLUMNS).to_pylist()
        replies = self.table(np.arange(start, stop), ["text"])["text"].to_pylist()
        texts = [split_reasoning(reply, self.reasoning_end) for reply in replies]
        rows = zip(which.tolist(), self.index[start:stop].tolist(), texts, self.ended[start:stop].tolist(), strict=True)
        return [
            Response(names[p], self.source, index, text=text, reasoning=thought, ended=ended, **prompt_fields[p])
            for p, index, (thought, text), ended in rows
        ]

    @cached_property
    def characters(self) -> Ints:
        """[N]: the number of characters of each text."""
        lengths = [pc.utf8_length(part["text"]).to_numpy() for part in self.shards.pass_over(["text"])]
        characters: Ints = np.concatenate(lengths)[self.shard_rows]
        return characters

    @cached_property
    def twins(self) -> Ints:
        """[P, K]: the first index of the prompt that has the same token ids (the response's own if it is the first)."""
        tokens = np.concatenate([_digests(part["response_ids"]) for part in self.shards.pass_over(["response_ids"])])
        tokens = tokens[self.shard_rows]
        slots = np.tile(np.arange(self.rows.shape[1]), (len(self.rows), 1))
        for start in range(0, len(slots), _BLOCK):
            rows = self.rows[start : start + _BLOCK]
            equal = (tokens[rows][:, :, None] == tokens[rows][:, None, :]) & (rows >= 0)[:, None, :]
            slots[start : start + _BLOCK] = np.where(rows >= 0, equal.argmax(axis=2), slots[start : start + _BLOCK])
        return slots


def _digests(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A digest of each list of token ids, [n]."""
    column = ids.combine_chunks()
    offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
    raw = b"".join(
        hashlib.blake2b(values[start:end].tobytes(), digest_size=8).digest() for start, end in pairwise(offsets)
    )
    return np.frombuffer(raw, np.uint64)


def for_annotators(sources: Sequence[Responses]) -> Sequence[Response]:
    """The responses of all `sources`, one source after the other, as annotators see them. They are read when used."""
    starts = np.cumsum([0, *map(len, sources)]).tolist()

    def read(start: int, stop: int) -> list[Response]:
        parts = zip(starts, starts[1:], sources, strict=False)
        ranges = [(max(start, low) - low, min(stop, high) - low, source) for low, high, source in parts]
        return [response for low, high, source in ranges if low < high for response in source.for_annotators(low, high)]

    return LazySequence(starts[-1], read)


def read_responses(source: str, folder: Path, prompts: Path, *, reasoning_end: str | None = None) -> Responses:
    """Read the ids and indices of the responses in the shards that the manifest in `folder` names.

    reasoning_end: what ends the thought of a reply, which annotators do not see. Raises UserError when the generate
    stage is unfinished, altered or without responses, when a response's prompt is not in `prompts`, and for two
    responses with the same prompt and index.
    """
    try:
        manifest = read_manifest(folder)
    except BrokenManifest as broken:
        raise UserError(
            f"the generate stage is not finished: {broken}",
            where=str(folder),
            remedy="run the generate stage of this folder again",
        ) from None
    shards = sorted(entry.path for entry in manifest.files if Path(entry.path).match("responses-*.parquet"))
    paths = [folder / shard for shard in shards]
    return responses_in(source, paths, PromptFile.of(prompts), folder=folder, reasoning_end=reasoning_end)


@dataclass(frozen=True)
class PromptFile:
    """The prompts that responses answer."""

    path: Path
    ids: pa.Array  # of all prompts, in the order of the file
    rows: Shards  # storage.schemas.PROMPTS

    @classmethod
    def of(cls, path: Path) -> "PromptFile":
        ids = read_parquet(path, PROMPTS, ["prompt_id"])["prompt_id"].combine_chunks()
        return cls(path, ids, Shards([path], PROMPTS))


def responses_in(
    source: str, paths: Sequence[Path], prompts: PromptFile, *, folder: Path, reasoning_end: str | None
) -> Responses:
    """The responses in the shards `paths` of the generate stage in `folder`. Raises UserError as `read_responses`."""
    responses = read_parquet(paths, RESPONSES, _RESPONSE_COLUMNS) if paths else None
    if responses is None or not len(responses):
        raise UserError("there are no responses", where=str(folder), remedy="run the generate stage again")
    prompt_rows = pc.index_in(responses["prompt_id"], value_set=prompts.ids)
    if prompt_rows.null_count:
        missing = responses.filter(pc.is_null(prompt_rows))["prompt_id"][0].as_py()
        raise UserError(
            f"the prompt {missing} is missing; {prompt_rows.null_count} responses in {folder} have no prompt",
            where=str(prompts.path),
            remedy="give the prompts file that these responses were sampled from",
        )
    at, index = prompt_rows.to_numpy(), responses["response_index"].to_numpy()
    order = np.lexsort((index, at))
    answered, prompt = np.unique(at, return_inverse=True)
    rows = np.full((len(answered), int(index.max()) + 1), -1)
    rows[prompt[order], index[order]] = np.arange(len(order))
    if (rows >= 0).sum() != len(order):
        raise UserError(
            "two responses have the same prompt and index", where=str(folder), remedy="run the generate stage again"
        )
    return Responses(
        source=source,
        prompt_ids=prompts.ids.take(answered),
        rows=rows,
        prompt=prompt[order],
        index=index[order],
        ended=pc.equal(responses["finish_reason"], "stop").to_numpy()[order],
        shards=Shards(list(paths), RESPONSES),
        shard_rows=order,
        prompt_shards=prompts.rows,
        prompt_shard_rows=answered,
        reasoning_end=reasoning_end,
    )
