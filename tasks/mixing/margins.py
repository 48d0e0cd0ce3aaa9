"""Implicit-reward margins of pairs that nobody here has scored, and those with the largest: SeRA on an offline set.

Source: arXiv 2410.09362. m_t = h(chosen) - h(rejected), h = log pi_t - log pi_ref; over two iterates, against the bias
of one, m = (1 - g) m_t + g m_t-1. Of the offline pairs the share with the largest m is kept. The paper's components;
share, g and which two iterates are ours.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from storage.arrays import Floats, Ints


class MarginSettings(BaseModel):
    """Which pairs of an offline set are worth training on, by the run's own policies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.7, gt=0, le=1)  # OURS: of the set's pairs
    before: float = Field(0.3, ge=0, lt=1)  # OURS: g, weight of the round before
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: int = Field(16384, ge=1)  # padded tokens of one forward
    device: str = "auto"


def ensembled(now: Floats, before: Floats, weight: float) -> Floats:
    """(1 - weight) now + weight before, [n]."""
    result: Floats = (1 - weight) * now + weight * before
    return result


def largest(margins: Floats, share: float) -> Ints:
    """Positions, ascending, of the ceil(share * n) largest margins [n]; of equal ones the first."""
    count = int(np.ceil(round(share * len(margins), 9)))
    result: Ints = np.sort(np.argsort(-margins, kind="stable")[:count])
    return result


def keep_by_margin(pairs: pa.Table, policies: Sequence[Path], reference: Path, settings: MarginSettings) -> pa.Table:
    """The rows (storage.schemas.PREFERENCES) with the largest margins, in their order.

    policies: pi_t and pi_t-1. All rows where pi_t is the reference, as there is no margin yet.
    """
    now, before = policies
    if now.resolve() == reference.resolve():
        return pairs
    folders = dict.fromkeys([now.resolve(), before.resolve(), reference.resolve()])
    gaps = {folder: _gaps(pairs, folder, settings) for folder in folders}
    margins = [gaps[each.resolve()] - gaps[reference.resolve()] for each in (now, before)]
    return pairs.take(largest(ensembled(margins[0], margins[1], settings.before), settings.share))


def _gaps(pairs: pa.Table, folder: Path, settings: MarginSettings) -> Floats:
    """log p(chosen) - log p(rejected) of each row by the policy in `folder`, nats."""
    from tasks.modeling.load import load_policy
    from tasks.modeling.logprobs import TokenSequence, sequence_logprobs

    model = load_policy(folder, dtype=settings.dtype, device=settings.device)
    prompts = pairs["prompt_ids"].to_pylist()
    sides = [
        sequence_logprobs(
            model,
            [TokenSequence(prompt, ids) for prompt, ids in zip(prompts, pairs[column].to_pylist(), strict=True)],
            tokens=settings.batch_tokens,
        )
        for column in ("chosen_ids", "rejected_ids")
    ]
    result: Floats = np.asarray(sides[0] - sides[1], dtype=np.float64)
    return result
