"""Keep only some pairs: those with the largest margins of scores, targets or the run's own policies, or those of
prompts whose targets are not all 0.

SeRA (arXiv 2410.09362) keeps the share of pairs with the largest implicit-reward margin, m = h(chosen) - h(rejected)
with h = log pi - log pi_ref, and reduces the bias of a single policy by a weighted sum over two iterations,
m = (1 - g) m_t + g m_t-1. This keeps the easy pairs: it removes noise, and does not look for hard pairs.
The share, g and the choice of iterations are ours.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from storage.arrays import Floats, Ints


class ScoreMarginFilter(BaseModel):
    """Keep the pairs of a round with the largest margins of the panel's scores, or of the targets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(gt=0, le=1)  # of the labelled pairs
    # Annotators that score -> their weight in the margin, e.g. {now: 0.7, before: 0.3}; {} = the margin is the target.
    margin_of: dict[str, Annotated[float, Field(gt=0)]] = {}


class PolicyMarginFilter(BaseModel):
    """Keep the pairs of an offline set with the largest implicit-reward margins of the run's own policies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.7, gt=0, le=1)  # OURS: of the set's pairs
    before: float = Field(0.3, ge=0, lt=1)  # OURS: g, the weight of the previous policy
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: int = Field(16384, ge=1)  # padded tokens of one forward
    device: str = "auto"


def largest(margins: Floats, share: float) -> Ints:
    """Positions, ascending, of the ceil(share * n) largest margins [n]. Ties go to the first; NaN is never kept."""
    known = np.flatnonzero(~np.isnan(margins))
    count = int(np.ceil(round(share * len(margins), 9)))
    positions: Ints = np.sort(known[np.argsort(-margins[known], kind="stable")][:count])
    return positions


def weighted(now: Floats, before: Floats, weight: float) -> Floats:
    """(1 - weight) now + weight before, [n]."""
    margins: Floats = (1 - weight) * now + weight * before
    return margins


def keep_by_scores(preferences: pa.Table, scores: pa.Table, settings: ScoreMarginFilter) -> tuple[pa.Table, int]:
    """The rows of `preferences` (its labels) with the largest margins, in their order, and how many are left out.

    A pair with a response that one of the annotators did not score has no margin, and is left out.
    """
    kept = preferences.take(largest(_score_margins(preferences, scores, settings), settings.share))
    return kept, len(preferences) - len(kept)


def keep_informative(preferences: pa.Table) -> tuple[pa.Table, int]:
    """The rows of prompts with at least one target that is not 0, in their order, and how many are left out.

    A prompt whose pairs are all tied has no gradient while the policy is the reference. The ties of other prompts stay:
    they say that two responses are equally good.
    """
    differs = pc.unique(preferences.filter(pc.not_equal(preferences["target"], 0.0))["prompt_id"])
    kept = preferences.filter(pc.is_in(preferences["prompt_id"], differs))
    return kept, len(preferences) - len(kept)


def keep_by_policies(
    pairs: pa.Table,
    policies: Sequence[Path],
    reference: Path,
    settings: PolicyMarginFilter,
    *,
    trust_remote_code: bool = False,
) -> pa.Table:
    """The rows of `pairs` (storage.schemas.PREFERENCES) with the largest margins, in their order.

    policies: folders of pi_t and pi_t-1. All rows when pi_t is the reference, because every margin is 0 then.
    """
    now, before = policies
    if now.resolve() == reference.resolve():
        return pairs
    folders = dict.fromkeys([now.resolve(), before.resolve(), reference.resolve()])
    gaps = {folder: _logprob_gaps(pairs, folder, settings, trust_remote_code) for folder in folders}
    margins = [gaps[policy.resolve()] - gaps[reference.resolve()] for policy in (now, before)]
    return pairs.take(largest(weighted(margins[0], margins[1], settings.before), settings.share))


def _score_margins(preferences: pa.Table, scores: pa.Table, settings: ScoreMarginFilter) -> Floats:
    if not settings.margin_of:
        target: Floats = preferences["target"].to_numpy()
        return target
    total = np.zeros(len(preferences))
    for annotator, weight in settings.margin_of.items():
        scored = scores.filter(pc.equal(scores["annotator"], annotator))
        keys = pa.array(_keys(scored["prompt_id"], scored["response_index"]), pa.string())
        values = scored["score"].to_numpy().astype(np.float64)  # null is NaN
        sides = []
        for index in ("chosen_index", "rejected_index"):
            place = pc.index_in(pa.array(_keys(preferences["prompt_id"], preferences[index]), pa.string()), keys)
            at = place.fill_null(len(values)).to_numpy()
            sides.append(np.append(values, np.nan)[at])
        total += weight * (sides[0] - sides[1])
    return total


def _keys(prompts: pa.ChunkedArray, indices: pa.ChunkedArray) -> list[str]:
    return [f"{prompt}:{index}" for prompt, index in zip(prompts.to_pylist(), indices.to_pylist(), strict=True)]


def _logprob_gaps(pairs: pa.Table, folder: Path, settings: PolicyMarginFilter, trust_remote_code: bool) -> Floats:
    """log p(chosen) - log p(rejected) of each row under the policy in `folder`, [n], nats."""
    from tasks.modeling.load import load_policy, unload
    from tasks.modeling.logprobs import TokenSequence, sequence_logprobs

    model = load_policy(folder, dtype=settings.dtype, device=settings.device, trust_remote_code=trust_remote_code)
    prompts = pairs["prompt_ids"].to_pylist()
    sides = [
        sequence_logprobs(
            model,
            [TokenSequence(prompt, ids) for prompt, ids in zip(prompts, pairs[column].to_pylist(), strict=True)],
            tokens=settings.batch_tokens,
        )
        for column in ("chosen_ids", "rejected_ids")
    ]
    unload(model)
    gaps: Floats = np.asarray(sides[0] - sides[1], dtype=np.float64)
    return gaps
