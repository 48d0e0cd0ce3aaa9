"""Soft votes of annotators that score: each vote carries the probability sigmoid(score difference / temperature).

A hard vote counts any difference of scores in full, however small. With `temperature: auto` the temperature is the one
under which the scores predict the votes of all other annotators best: with g the difference of scores and v in [0, 1]
another annotator's vote on the same pair, the slope b maximises

    sum v log sigmoid(b g) + (1 - v) log sigmoid(-b g)

and the temperature is 1 / b (Platt scaling without an intercept, because the order of two responses means nothing).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, Floats, Ints
from storage.schemas import VOTES
from tasks.labeling.aggregation import sigmoid
from tasks.labeling.aggregation.newton import maximise
from tasks.labeling.rows import replace_rows
from tasks.labeling.summary import ScoreTemperature
from tasks.panel.annotators.settings import Temperature
from tasks.panel.questions import PanelVotes

_SURE = 2.0  # standard errors that the slope must be above zero
_SHARES = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class SoftVotes:
    """Votes with probabilities, and the temperature of each annotator that casts soft votes."""

    votes: pa.Table
    temperatures: dict[str, ScoreTemperature]


def soft_votes(
    panel_votes: PanelVotes,
    pairs: Ints,
    temperatures: Mapping[str, Temperature],
    weights: Mapping[str, float],
    min_votes: int,
) -> SoftVotes:
    """Fill `probability` in the votes of the annotators in `temperatures`; a tie has one half.

    pairs [n, 2]: numbers of the responses that the panel compared; scores and votes are in the order of responses and
    pairs. weights: of annotators, 1 where not named; votes with weight 0 teach no temperature. min_votes: decided votes
    of others that an estimate needs; with fewer, or when they do not follow the scores, the temperature is 1.
    """
    votes, scores = panel_votes.votes, panel_votes.scores
    found: dict[str, ScoreTemperature] = {}
    for name, setting in temperatures.items():
        is_own = pc.equal(votes["annotator"], name)
        value: Floats = scores.filter(pc.equal(scores["annotator"], name))["score"].to_numpy()  # null is NaN
        gap = value[pairs[:, 0]] - value[pairs[:, 1]]
        if setting == "auto":
            own = votes.filter(is_own)
            others = _others_votes(votes.filter(pc.invert(is_own)), own, weights)
            found[name] = _estimated(gap, *others, _prompts(own), min_votes)
        else:
            found[name] = ScoreTemperature(temperature=setting)
        tied = pc.equal(votes.filter(is_own)["outcome"], "tie").to_numpy()
        probability = np.where(tied, 0.5, sigmoid(gap / found[name].temperature))
        column = pa.array(np.where(np.isnan(gap), np.nan, probability), pa.float64(), from_pandas=True)
        votes = replace_rows(votes, is_own, "probability", column, VOTES)
    return SoftVotes(votes, found)


def _prompts(own: pa.Table) -> Ints:
    """[n]: a number for the prompt of each pair. own: the votes of an annotator that voted on every pair, in order."""
    codes: Ints = own["prompt_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    return codes


def _others_votes(votes: pa.Table, own: pa.Table, weights: Mapping[str, float]) -> tuple[Floats, Floats, Ints]:
    """Of each pair, [n] each: the weight of `votes`, the weight of those for its first response, decided votes.

    own: the votes of an annotator that voted on every pair, in the order of pairs. People may vote on some of them.
    """
    ids = pc.unique(own["prompt_id"])
    slots = 1 + max(pc.max(own[side]).as_py() for side in ("index_a", "index_b"))
    pairs = _keys(own, ids, slots)
    order = np.argsort(pairs)
    pair = order[np.searchsorted(pairs[order], _keys(votes, ids, slots))]
    share = np.array([_SHARES.get(each, np.nan) for each in votes["outcome"].to_pylist()])
    weight = np.array([weights.get(each, 1.0) for each in votes["annotator"].to_pylist()])
    counted = ~np.isnan(share) & (weight > 0)
    pair, share, weight = pair[counted], share[counted], weight[counted]
    size = len(pairs)
    cast: Floats = np.bincount(pair, weight, size).astype(float)
    won: Floats = np.bincount(pair, weight * share, size).astype(float)
    return cast, won, np.bincount(pair, share != 0.5, size).astype(int)


def _keys(votes: pa.Table, ids: pa.Array, slots: int) -> Ints:
    """[n]: a number for the pair of each vote."""
    prompt = pc.index_in(votes["prompt_id"], value_set=ids).to_numpy().astype(np.int64)
    keys: Ints = (prompt * slots + votes["index_a"].to_numpy()) * slots + votes["index_b"].to_numpy()
    return keys


def _estimated(gap: Floats, cast: Floats, won: Floats, decided: Ints, prompt: Ints, min_votes: int) -> ScoreTemperature:
    """The temperature of scores that differ by gap [n], from others' votes; 1, and why, where it is not identified."""
    used: Bools = ~np.isnan(gap) & (gap != 0) & (cast > 0)
    gap, cast, won, prompt = gap[used], cast[used], won[used], prompt[used]
    count = int(decided[used].sum())
    if count < min_votes:
        why = f"other annotators decided {count} times on pairs whose scores differ; {min_votes} are needed"
        return ScoreTemperature(temperature=1.0, votes=count, not_identified=why)
    scale = float(np.abs(gap).mean())
    x = gap / scale
    against = float(np.where(x > 0, cast - won, won).sum())
    if against == 0:
        why = "no other annotator ever votes against these scores, so that no temperature is too small"
        return ScoreTemperature(temperature=1.0, votes=count, not_identified=why)

    def value(slope: Floats) -> Floats:
        z = slope[:, 0] * x
        total: Floats = -(won * np.logaddexp(0.0, -z) + (cast - won) * np.logaddexp(0.0, z)).sum(keepdims=True)
        return total

    def derivatives(slope: Floats) -> tuple[Floats, Floats]:
        p = sigmoid(slope[:, 0] * x)
        gradient = ((won - cast * p) * x).sum()
        curvature = (cast * p * (1 - p) * x**2).sum()
        return np.array([[gradient]]), np.array([[[curvature]]])

    slopes, inverse = maximise(value, derivatives, np.zeros((1, 1)), 1e-12 * (1 + cast.sum()))
    slope = float(slopes[0, 0])
    # Votes on one prompt depend on each other: the error counts prompts, not votes (sandwich estimator).
    residual = (won - cast * sigmoid(slope * x)) * x
    error = float(inverse[0, 0, 0]) * float(np.sqrt(np.square(np.bincount(prompt, residual)).sum()))
    if slope <= _SURE * error:
        why = (
            f"the others' votes do not follow these scores: the slope {slope / scale:.3g} a unit of score is within "
            f"{_SURE:g} standard errors ({error / scale:.3g}) of zero, or below"
        )
        return ScoreTemperature(temperature=1.0, votes=count, not_identified=why)
    return ScoreTemperature(temperature=scale / slope, votes=count)
