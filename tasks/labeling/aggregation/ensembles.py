"""One score from several reward models (Coste et al., arXiv 2310.02743): mean, worst case, uncertainty-weighted."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Floats, Ints

Rule = Literal["mean", "worst", "uncertainty"]


@dataclass(frozen=True)
class Ensemble:
    """One score a response. One standard deviation of a member's scores counts as one logit."""

    score: Floats  # [P, K], NaN where a member has no score
    members: Floats  # [P, K, A], standardised

    def gaps(self, prompt: Ints, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """Score gap, and the standard error of the members' mean gap (0 for a single member)."""
        apart = self.members[prompt, first] - self.members[prompt, second]
        size = apart.shape[1]
        se = apart.std(axis=1, ddof=1) / np.sqrt(size) if size > 1 else np.zeros(len(apart))
        return self.score[prompt, first] - self.score[prompt, second], se


def standardise(scores: Floats) -> Floats:
    """Each annotator's scores [..., A] with mean 0 and standard deviation 1 over all responses, ignoring NaN.

    Scores of an annotator that are all equal become 0.
    """
    rows = scores.reshape(-1, scores.shape[-1])
    spread = np.nanstd(rows, axis=0)
    result: Floats = (scores - np.nanmean(rows, axis=0)) / np.where(spread > 0, spread, 1.0)
    return result


def combine(members: Floats, rule: Rule, penalty: float = 0.1) -> Floats:
    """mean | worst: the lowest | uncertainty: mean - penalty * variance (population), over the last axis."""
    if rule == "worst":
        result: Floats = members.min(axis=-1)
    else:
        result = members.mean(axis=-1) - (penalty * members.var(axis=-1) if rule == "uncertainty" else 0.0)
    return result


def read_scores(scores: pa.Table, prompt_ids: pa.Array, slots: int) -> tuple[tuple[str, ...], Floats]:
    """Annotators and their scores [P, K, A] from storage.schemas.SCORES; NaN where a score is missing."""
    scored = scores.filter(pc.equal(scores["outcome"], "score"))
    names = tuple(pc.unique(scored["annotator"]).to_pylist())
    values = np.full((len(prompt_ids), slots, len(names)), np.nan)
    prompt = pc.index_in(scored["prompt_id"], value_set=prompt_ids).to_numpy()
    member = pc.index_in(scored["annotator"], value_set=pa.array(names, pa.string())).to_numpy()
    values[prompt, scored["response_index"].to_numpy(), member] = scored["score"].to_numpy()
    return names, values
