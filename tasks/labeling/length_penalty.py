"""Implicit rewards without their taste for length: the penalty that makes chosen as long as rejected.

DICE (arXiv 2406.09760): score = log pi(y|x) - log pi_ref(y|x) - alpha |y|, |y| in characters; of alpha = 0, .001, .. 1
the one with the least |mean(|best|) - mean(|worst|)| over the round's prompts, best and worst by these scores; the
search ends where that first grows. One alpha a round and annotator.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Floats, Ints
from storage.schemas import SCORES, VOTES
from tasks.panel.questions import PanelVotes
from tasks.panel.responses import Responses

GRID = np.arange(1001) / 1000


def level_penalty(scores: Floats, characters: Floats) -> float:
    """alpha for scores [P, K] (NaN where there is none) of responses with `characters` [P, K]."""
    compared = (~np.isnan(scores)).sum(axis=1) >= 2
    scores, characters = scores[compared], characters[compared]
    if not len(scores):
        return 0.0
    rows = np.arange(len(scores))
    least, found = np.inf, 0.0
    for alpha in GRID:
        value = scores - alpha * characters
        best = np.where(np.isnan(value), -np.inf, value).argmax(axis=1)
        worst = np.where(np.isnan(value), np.inf, value).argmin(axis=1)
        apart = abs(float((characters[rows, best] - characters[rows, worst]).mean()))
        if apart > least:
            break
        if apart < least:
            least, found = apart, float(alpha)
    return found


def without_length(
    ballot: PanelVotes, candidates: Responses, pairs: Ints, margins: Mapping[str, float]
) -> tuple[PanelVotes, dict[str, float]]:
    """The ballot with scores and votes of some annotators less their length penalty, and each one's penalty.

    margins: these annotators, and the tie margin of each. pairs [n, 2]: numbers of candidates, as the panel was
    asked; the penalty is found on those that are in a pair.
    """
    found: dict[str, float] = {}
    scores, votes = ballot.scores, ballot.votes
    if not margins:
        return ballot, found
    characters = candidates.characters.astype(np.float64)
    usable = np.zeros(len(candidates), dtype=bool)
    usable[pairs] = True
    for name, margin in margins.items():
        mine = pc.equal(scores["annotator"], name)
        given = scores.filter(mine)["score"].to_numpy().astype(np.float64)  # in the order of candidates; null is NaN
        table = (_by_prompt(candidates, values) for values in (np.where(usable, given, np.nan), characters))
        found[name] = level_penalty(*table)
        value = given - found[name] * characters
        scores = _put(scores, mine, "score", pa.array(value, pa.float64(), from_pandas=True), SCORES)
        gap = value[pairs[:, 0]] - value[pairs[:, 1]]
        outcome = np.select([np.abs(gap) <= margin, gap > 0], ["tie", "a"], "b")
        theirs = pc.equal(votes["annotator"], name)
        before = np.array(votes.filter(theirs)["outcome"].to_pylist())
        votes = _put(votes, theirs, "outcome", pa.array(np.where(np.isnan(gap), before, outcome).tolist()), VOTES)
    return PanelVotes(scores, votes), found


def _by_prompt(candidates: Responses, values: Floats) -> Floats:
    """Values of candidates [N] as [P, K], NaN where a prompt has fewer responses."""
    table: Floats = np.where(candidates.rows >= 0, values[candidates.rows], np.nan)
    return table


def _put(rows: pa.Table, where: pa.ChunkedArray, column: str, values: pa.Array, schema: pa.Schema) -> pa.Table:
    """`rows` with `values` in the column of those at `where`, in their order."""
    place = schema.get_field_index(column)
    mask = where.combine_chunks()
    replaced = pc.replace_with_mask(rows[column].combine_chunks(), mask, values)
    return rows.set_column(place, schema.field(column), replaced)
