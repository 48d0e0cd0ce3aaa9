"""The responses of finished generate stages, beside their prompts, in an order that does not depend on shards."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import UserError
from storage.manifest import BrokenManifest, read_manifest
from storage.schemas import PROMPTS, RESPONSES, read_parquet
from tasks.labeling.aggregation import Ints
from tasks.labeling.annotators.protocol import Response

_SEEN = ["prompt_id", "response_index", "text", "finish_reason"]  # by annotators
_COLUMNS = [*_SEEN, "prompt_ids", "response_ids"]


@dataclass(frozen=True)
class Candidates:
    """All responses of one source. `rows[p, k]` is the row of response k of prompt p in `responses`, -1 if absent."""

    source: str
    prompts: pa.Table  # storage.schemas.PROMPTS; only those with a response
    responses: pa.Table  # storage.schemas.RESPONSES without log-probabilities and seeds, and without token ids where
    # they were not asked for; by prompt, then index
    rows: Ints  # [P, K]

    def for_annotators(self) -> list[Response]:
        """The responses as annotators see them, in the order of `responses`."""
        prompts = {row["prompt_id"]: row for row in self.prompts.to_pylist()}
        seen = self.responses.select(_SEEN).to_pylist()
        return [
            Response(
                prompt_id=row["prompt_id"],
                source=self.source,
                index=row["response_index"],
                messages=prompts[row["prompt_id"]]["messages"],
                answer=prompts[row["prompt_id"]]["answer"],
                category=prompts[row["prompt_id"]]["category"],
                text=row["text"],
                ended=row["finish_reason"] == "stop",
                reference=prompts[row["prompt_id"]]["reference"],
            )
            for row in seen
        ]

    @cached_property
    def ended(self) -> np.ndarray:
        """Whether each response ended by itself, bool [len(responses)]."""
        flags: np.ndarray = pc.equal(self.responses["finish_reason"], "stop").to_numpy(zero_copy_only=False)
        return flags

    @cached_property
    def twins(self) -> Ints:
        """[P, K]: the first slot of the prompt whose response has the same token ids (itself when it is the first)."""
        ids = self.responses["response_ids"].combine_chunks()
        offsets, values = ids.offsets.to_numpy(), ids.values.to_numpy()
        slots = np.tile(np.arange(self.rows.shape[1]), (len(self.rows), 1))
        first: dict[tuple[int, bytes], int] = {}
        for prompt, slot in np.argwhere(self.rows >= 0).tolist():
            row = self.rows[prompt, slot]
            tokens = values[offsets[row] : offsets[row + 1]].tobytes()
            slots[prompt, slot] = first.setdefault((prompt, tokens), slot)
        return slots


def read_candidates(source: str, folder: Path, prompts: Path, *, token_ids: bool = True) -> Candidates:
    """Read the responses-*.parquet that the manifest in `folder` names, with or without token ids, and their prompts.

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
    asked = read_parquet(prompts, PROMPTS)
    responses = (
        read_parquet([folder / shard for shard in shards], RESPONSES, _COLUMNS if token_ids else _SEEN)
        if shards
        else None
    )
    if responses is None or not len(responses):
        raise UserError("there are no responses", where=str(folder), remedy="run the generate stage again")
    place = pc.index_in(responses["prompt_id"], value_set=asked["prompt_id"].combine_chunks())
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
    if (np.diff(order) != 1).any():  # else they are in order: a copy of everything would be for nothing
        responses = responses.take(order)
    return Candidates(source, asked.take(answered), responses.combine_chunks(), rows)
