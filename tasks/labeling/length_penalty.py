"""Length penalty of implicit rewards, chosen so that best and worst responses are equally long on average.

DICE (arXiv 2406.09760): score = log pi(y|x) - log pi_ref(y|x) - alpha |y|, with |y| in characters. alpha is the value
among 0, .001, .. 1 with the smallest |mean(|best|) - mean(|worst|)| over the round's prompts, where best and worst are
by these scores; the search stops when this first grows. One alpha for each round and annotator.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Floats, Ints
from storage.schemas import SCORES, VOTES
from tasks.labeling.rows import replace_rows
from tasks.panel.questions import PanelVotes
from tasks.panel.responses import Responses

GRID = np.arange(1001) / 1000


def level_penalty(scores: Floats, characters: Floats) -> float:
    """alpha for scores [P, K] (NaN where missing) of responses with `characters` [P, K]."""
    compared = (~np.isnan(scores)).sum(axis=1) >= 2
    scores, characters = scores[compared], characters[compared]
    if not len(scores):
        return 0.0
    rows = np.arange(len(scores))
    smallest, penalty = np.inf, 0.0
    for alpha in GRID:
        value = scores - alpha * characters
        best = np.where(np.isnan(value), -np.inf, value).argmax(axis=1)
        worst = np.where(np.isnan(value), np.inf, value).argmin(axis=1)
        difference = abs(float((characters[rows, best] - characters[rows, worst]).mean()))
        if difference > smallest:
            break
        if difference < smallest:
            smallest, penalty = difference, float(alpha)
    return penalty


def without_length(
    panel_votes: PanelVotes, responses: Responses, pairs: Ints, margins: Mapping[str, float]
) -> tuple[PanelVotes, dict[str, float]]:
    """Scores and votes with length penalties subtracted, and the penalty of each annotator.

    margins: the annotators to penalise -> their tie margin. pairs [n, 2]: numbers of the responses that the panel
    compared; only responses in a pair determine the penalty.
    """
    penalties: dict[str, float] = {}
    scores, votes = panel_votes.scores, panel_votes.votes
    if not margins:
        return panel_votes, penalties
    characters = responses.characters.astype(np.float64)
    usable = np.zeros(len(responses), dtype=bool)
    usable[pairs] = True
    for name, margin in margins.items():
        is_own = pc.equal(scores["annotator"], name)
        own = scores.filter(is_own)["score"].to_numpy().astype(np.float64)  # in the order of responses; null is NaN
        tables = (_by_prompt(responses, values) for values in (np.where(usable, own, np.nan), characters))
        penalties[name] = level_penalty(*tables)
        value = own - penalties[name] * characters
        scores = replace_rows(scores, is_own, "score", pa.array(value, pa.float64(), from_pandas=True), SCORES)
        gap = value[pairs[:, 0]] - value[pairs[:, 1]]
        outcome = np.select([np.abs(gap) <= margin, gap > 0], ["tie", "a"], "b")
        is_own_vote = pc.equal(votes["annotator"], name)
        before = np.array(votes.filter(is_own_vote)["outcome"].to_pylist())
        outcomes = pa.array(np.where(np.isnan(gap), before, outcome).tolist())
        votes = replace_rows(votes, is_own_vote, "outcome", outcomes, VOTES)
    return PanelVotes(scores, votes), penalties


def _by_prompt(responses: Responses, values: Floats) -> Floats:
    """Values of responses [N] as [P, K], NaN where a prompt has fewer responses."""
    table: Floats = np.where(responses.rows >= 0, values[responses.rows], np.nan)
    return table
