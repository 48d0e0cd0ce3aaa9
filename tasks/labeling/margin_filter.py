"""Keep the pairs that a margin speaks for: of the panel's target, or of the scores of named annotators.

SeRA (arXiv 2410.09362) keeps the share of pairs with the largest implicit-reward margin, m = s_chosen - s_rejected with
s an annotator of kind implicit_reward, and dampens one model's bias by a weighted sum over iterations,
m = (1 - g) m_t + g m_t-1. That keeps the easy pairs: it removes noise, it does not look for what is hard.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Floats
from tasks.labeling.settings import SelectionSettings


def keep_largest(preferences: pa.Table, scores: pa.Table, settings: SelectionSettings) -> tuple[pa.Table, int]:
    """The rows of `preferences` (its labels) with the largest margins, in their order, and how many are left out.

    ceil(share * n) rows stay; of equal margins the first. A pair whose margin is not known, because an annotator did
    not score one of its responses, is left out.
    """
    margin = _margins(preferences, scores, settings)
    known = np.flatnonzero(~np.isnan(margin))
    count = int(np.ceil(round(settings.share * len(margin), 9)))
    best = known[np.argsort(-margin[known], kind="stable")][:count]
    kept = preferences.take(np.sort(best))
    return kept, len(preferences) - len(kept)


def _margins(preferences: pa.Table, scores: pa.Table, settings: SelectionSettings) -> Floats:
    if not settings.margin_of:
        target: Floats = preferences["target"].to_numpy()
        return target
    total = np.zeros(len(preferences))
    for annotator, weight in settings.margin_of.items():
        mine = scores.filter(pc.equal(scores["annotator"], annotator))
        keys = pa.array(_keys(mine["prompt_id"], mine["response_index"]), pa.string())
        values = mine["score"].to_numpy().astype(np.float64)  # null is NaN
        sides = []
        for index in ("chosen_index", "rejected_index"):
            place = pc.index_in(pa.array(_keys(preferences["prompt_id"], preferences[index]), pa.string()), keys)
            at = place.fill_null(len(values)).to_numpy()
            sides.append(np.append(values, np.nan)[at])
        total += weight * (sides[0] - sides[1])
    return total


def _keys(prompts: pa.ChunkedArray, indices: pa.ChunkedArray) -> list[str]:
    return [f"{prompt}:{index}" for prompt, index in zip(prompts.to_pylist(), indices.to_pylist(), strict=True)]
