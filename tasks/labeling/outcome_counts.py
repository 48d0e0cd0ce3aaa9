"""Votes by outcome: how often the panel preferred, tied, abstained or failed on each pair of responses."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.arrays import Floats, Ints
from tasks.labeling.aggregation.votes import places
from tasks.panel.responses import Responses

_OUTCOMES = ["a", "b", "tie", "abstain", "error"]


@dataclass(frozen=True)
class OutcomeCounts:
    """Votes by prompt and slots, float [P, K, K]. wins[p, i, j]: votes for i over j; the others are symmetric."""

    wins: Floats
    ties: Floats
    abstain: Floats
    error: Floats


@dataclass(frozen=True)
class VoteColumns:
    """Columns of the votes, all [n], sorted by prompt: slots, and the outcome's position in _OUTCOMES."""

    prompt: Ints
    a: Ints
    b: Ints
    outcome: Ints

    def counts(self, start: int, shape: tuple[int, int]) -> OutcomeCounts:
        """Counts for the prompts start .. start + P - 1, for shape (P, K)."""
        low, high = np.searchsorted(self.prompt, [start, start + shape[0]])
        prompt, a, b = (column[low:high].astype(np.int64) for column in (self.prompt, self.a, self.b))
        prompt = prompt - start
        outcome, full = self.outcome[low:high], (*shape, shape[1])

        def count(which: str, winner: Ints, loser: Ints) -> Floats:
            chosen = outcome == _OUTCOMES.index(which)
            flat = np.ravel_multi_index((prompt[chosen], winner[chosen], loser[chosen]), full)
            return np.bincount(flat, minlength=int(np.prod(full))).reshape(full).astype(np.float64)

        return OutcomeCounts(
            wins=count("a", a, b) + count("b", b, a),
            ties=count("tie", a, b) + count("tie", b, a),
            abstain=count("abstain", a, b) + count("abstain", b, a),
            error=count("error", a, b) + count("error", b, a),
        )


def vote_columns(votes: pa.Table, responses: Responses) -> VoteColumns:
    """Columns of storage.schemas.VOTES. Raises ValueError for votes on unknown responses."""
    prompt = places(votes["prompt_id"], responses.prompt_ids, np.int32)
    a, b = (votes[name].to_numpy().astype(np.int16) for name in ("index_a", "index_b"))
    low, high = np.minimum(a, b).min(initial=0), np.maximum(a, b).max(initial=0)
    if (prompt < 0).any() or high >= responses.rows.shape[1] or low < 0:
        raise ValueError("there are votes on unknown responses: the votes belong to another generate stage")
    outcome = places(votes["outcome"], pa.array(_OUTCOMES), np.int8)
    order = np.argsort(prompt, kind="stable")
    return VoteColumns(prompt[order], a[order], b[order], outcome[order])
