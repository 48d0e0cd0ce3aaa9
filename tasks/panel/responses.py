"""The responses of finished generate stages, beside their prompts, in an order that does not depend on shards."""

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
from tasks.panel.annotators.protocol import Response
from tasks.panel.lazy_sequence import Lazy

_NAMED = ["prompt_id", "response_index", "finish_reason"]
_ASKED = ["messages", "answer", "category", "reference"]
_TOGETHER = 4096  # prompts whose responses are compared at once


@dataclass(frozen=True)
class Candidates:
    """All responses of one source, numbered by prompt, then index. Texts and token ids stay where they are.

    N responses to P prompts, at most K to each. `rows[p, k]` is the number of response k of prompt p, -1 if absent.
    """

    source: str
    prompt_ids: pa.Array  # [P], of prompts with a response
    rows: Ints  # [P, K]
    prompt: Ints  # [N]: the p of each response
    index: Ints  # [N]: its k
    ended: Bools  # [N]: by itself, not cut off
    shards: Shards  # storage.schemas.RESPONSES
    place: Ints  # [N]: the response's row in `shards`
    asked: Shards  # storage.schemas.PROMPTS
    asked_place: Ints  # [P]: the prompt's row in `asked`

    def __len__(self) -> int:
        return len(self.place)

    def responses(self, numbers: Ints, columns: list[str]) -> pa.Table:
        """`columns` of storage.schemas.RESPONSES, of the responses with these numbers."""
        return self.shards.take(self.place[numbers], columns)

    def prompts(self, prompts: Ints, columns: list[str]) -> pa.Table:
        """`columns` of storage.schemas.PROMPTS, of these prompts (rows of `rows`)."""
        return self.asked.take(self.asked_place[prompts], columns)

    def seen(self, start: int, stop: int) -> list[Response]:
        """The responses `start` .. `stop` - 1 as annotators see them."""
        prompts, which = np.unique(self.prompt[start:stop], return_inverse=True)
        names = self.prompt_ids.take(prompts).to_pylist()
        asked = self.prompts(prompts, _ASKED).to_pylist()
        texts = self.responses(np.arange(start, stop), ["text"])["text"].to_pylist()
        spoken = zip(
            which.tolist(), self.index[start:stop].tolist(), texts, self.ended[start:stop].tolist(), strict=True
        )
        return [
            Response(names[p], self.source, index, text=text, ended=ended, **asked[p])
            for p, index, text, ended in spoken
        ]

    @cached_property
    def characters(self) -> Ints:
        """[N]: the length of each text."""
        lengths = [pc.utf8_length(part["text"]).to_numpy() for part in self.shards.pass_over(["text"])]
        found: Ints = np.concatenate(lengths)[self.place]
        return found

    @cached_property
    def twins(self) -> Ints:
        """[P, K]: the first slot of the prompt whose response has the same token ids (itself when it is the first)."""
        tokens = np.concatenate([_digests(part["response_ids"]) for part in self.shards.pass_over(["response_ids"])])
        tokens = tokens[self.place]
        slots = np.tile(np.arange(self.rows.shape[1]), (len(self.rows), 1))
        for start in range(0, len(slots), _TOGETHER):
            rows = self.rows[start : start + _TOGETHER]
            equal = (tokens[rows][:, :, None] == tokens[rows][:, None, :]) & (rows >= 0)[:, None, :]
            slots[start : start + _TOGETHER] = np.where(
                rows >= 0, equal.argmax(axis=2), slots[start : start + _TOGETHER]
            )
        return slots


def _digests(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A digest of each list of token ids, [n]."""
    column = ids.combine_chunks()
    offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
    raw = b"".join(
        hashlib.blake2b(values[start:end].tobytes(), digest_size=8).digest() for start, end in pairwise(offsets)
    )
    return np.frombuffer(raw, np.uint64)


def for_annotators(sources: Sequence[Candidates]) -> Sequence[Response]:
    """The responses of all `sources`, one source after the other, as annotators see them; read when asked for."""
    starts = np.cumsum([0, *map(len, sources)]).tolist()

    def read(start: int, stop: int) -> list[Response]:
        parts = zip(starts, starts[1:], sources, strict=False)
        wanted = [(max(start, low) - low, min(stop, high) - low, each) for low, high, each in parts]
        return [response for low, high, each in wanted if low < high for response in each.seen(low, high)]

    return Lazy(starts[-1], read)


def read_candidates(source: str, folder: Path, prompts: Path) -> Candidates:
    """Read which responses the responses-*.parquet have that the manifest in `folder` names, and to which prompts.

    Raises UserError when the generate stage is not finished or altered, when it has no responses, and for responses
    whose prompt is not in `prompts` or that are there twice.
    """
    try:
        manifest = read_manifest(folder)
    except BrokenManifest as broken:
        raise UserError(
            f"these responses are not those of a finished generate stage: {broken}",
            where=str(folder),
            remedy="run the generate stage of this folder again",
        ) from None
    shards = sorted(entry.path for entry in manifest.files if Path(entry.path).match("responses-*.parquet"))
    paths = [folder / shard for shard in shards]
    asked = read_parquet(prompts, PROMPTS, ["prompt_id"])["prompt_id"].combine_chunks()
    responses = read_parquet(paths, RESPONSES, _NAMED) if paths else None
    if responses is None or not len(responses):
        raise UserError("there are no responses", where=str(folder), remedy="run the generate stage again")
    place = pc.index_in(responses["prompt_id"], value_set=asked)
    if place.null_count:
        lost = responses.filter(pc.is_null(place))["prompt_id"][0].as_py()
        raise UserError(
            f"prompt {lost} of {folder} is not there ({place.null_count} responses)",
            where=str(prompts),
            remedy="give the prompts that these responses were sampled for",
        )
    at, index = place.to_numpy(), responses["response_index"].to_numpy()
    order = np.lexsort((index, at))
    answered, prompt = np.unique(at, return_inverse=True)
    rows = np.full((len(answered), int(index.max()) + 1), -1)
    rows[prompt[order], index[order]] = np.arange(len(order))
    if (rows >= 0).sum() != len(order):
        raise UserError("a response is there twice", where=str(folder), remedy="run the generate stage again")
    return Candidates(
        source=source,
        prompt_ids=asked.take(answered),
        rows=rows,
        prompt=prompt[order],
        index=index[order],
        ended=pc.equal(responses["finish_reason"], "stop").to_numpy()[order],
        shards=Shards(paths, RESPONSES),
        place=order,
        asked=Shards([prompts], PROMPTS),
        asked_place=answered,
    )
