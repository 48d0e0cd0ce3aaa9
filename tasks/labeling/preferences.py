"""Votes to preferences: tally, strengths, empirical preference and its logit, and the rows that training reads.

Responses of a prompt with the same token ids are one item: their votes are pooled, and they make no pair together.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.schemas import MESSAGES, PREFERENCES
from tasks.labeling.aggregation import Bools, Floats, Ints, bradley_terry, empirical_logit, sigmoid
from tasks.labeling.candidates import Candidates
from tasks.labeling.settings import PreferenceSettings

_EQUAL = 1e-9  # strengths closer than this differ by rounding only


@dataclass(frozen=True)
class Pairs:
    """Unordered pairs of responses of one prompt: rows of Candidates.rows, and two slots, first < second. All [n]."""

    prompt: Ints
    first: Ints
    second: Ints
    dropped: np.ndarray  # why the pair takes no part: "truncated" or "identical"; "" where it does


@dataclass(frozen=True)
class Tally:
    """Votes counted by prompt and slots, float [P, K, K]. wins[p, i, j]: i beat j; the others are symmetric."""

    wins: Floats
    ties: Floats
    abstain: Floats
    error: Floats


@dataclass(frozen=True)
class Preferences:
    """`table` of storage.schemas.PREFERENCES, by prompt then slots; `dropped` counts the pairs left out, by reason."""

    table: pa.Table
    dropped: dict[str, int]


def candidate_pairs(candidates: Candidates, *, drop_truncated: bool) -> Pairs:
    """Every pair of responses of each prompt, with those that can be no preference marked."""
    i, j = np.triu_indices(candidates.rows.shape[1], 1)
    present = candidates.rows >= 0
    prompt, pair = np.nonzero(present[:, i] & present[:, j])
    first, second = i[pair], j[pair]
    usable, twins = _usable(candidates, drop_truncated), candidates.twins
    truncated = ~(usable[prompt, first] & usable[prompt, second])
    identical = twins[prompt, first] == twins[prompt, second]
    return Pairs(prompt, first, second, np.select([truncated, identical], ["truncated", "identical"], ""))


def tally(votes: pa.Table, candidates: Candidates) -> Tally:
    """Count `votes` (storage.schemas.VOTES). Raises ValueError for votes on responses that are not candidates."""
    place = pc.index_in(votes["prompt_id"], value_set=candidates.prompts["prompt_id"].combine_chunks())
    a, b = votes["index_a"].to_numpy(), votes["index_b"].to_numpy()
    shape = (*candidates.rows.shape, candidates.rows.shape[1])
    if place.null_count or (np.maximum(a, b) >= shape[1]).any() or (np.minimum(a, b) < 0).any():
        raise ValueError("there are votes on responses that are not candidates")
    prompt = place.to_numpy().astype(np.int64)
    outcome = votes["outcome"].to_numpy()

    def count(which: str, winner: Ints, loser: Ints) -> Floats:
        chosen = outcome == which
        flat = np.ravel_multi_index((prompt[chosen], winner[chosen], loser[chosen]), shape)
        return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)

    return Tally(
        wins=count("a", a, b) + count("b", b, a),
        ties=count("tie", a, b) + count("tie", b, a),
        abstain=count("abstain", a, b) + count("abstain", b, a),
        error=count("error", a, b) + count("error", b, a),
    )


def make_preferences(
    candidates: Candidates, votes: pa.Table, settings: PreferenceSettings, round_number: int
) -> Preferences:
    """Fit strengths to all votes of each prompt and label its pairs.

    The target is the gap of ridge Bradley-Terry strengths, with the standard error of the posterior; where a prompt
    has votes on a single pair of items only, or for estimator "empirical_logit", the Haldane-Anscombe logit of the
    pair's votes. `chosen` is the stronger one, the lower index when they are equal, so target >= 0 and p_hat >= 0.5.
    """
    pairs = candidate_pairs(candidates, drop_truncated=settings.drop_truncated)
    counts = tally(votes, candidates)
    twins = candidates.twins
    usable = _usable(candidates, settings.drop_truncated)
    wins, items = _pooled(counts.wins + 0.5 * counts.ties, twins, usable)
    played = wins + wins.transpose(0, 2, 1)
    strengths = bradley_terry(wins, prior_variance=settings.prior_variance, mask=items)

    if settings.pairs == "best_worst":
        pairs = _best_worst(pairs, strengths.theta)
    reason = pairs.dropped.astype("<U12")
    p, i, j = pairs.prompt, pairs.first, pairs.second
    direct = counts.wins[p, i, j] + counts.wins[p, j, i] + counts.ties[p, i, j]
    reason[(reason == "") & (direct < settings.quorum)] = "quorum"
    kept = reason == ""
    p, i, j = p[kept], i[kept], j[kept]

    item_i, item_j = twins[p, i], twins[p, j]
    target, se = strengths.gaps(p, item_i, item_j)
    logit, variance = empirical_logit(wins[p, item_i, item_j], played[p, item_i, item_j])
    alone = (played > 0).sum(axis=(1, 2))[p] == 2  # one pair, counted from both sides
    by_logit = alone | (settings.estimator == "empirical_logit")
    target, se = np.where(by_logit, logit, target), np.where(by_logit, np.sqrt(variance), se)
    target = np.where(np.abs(target) < _EQUAL, 0.0, target)

    chosen, rejected = np.where(target >= 0, i, j), np.where(target >= 0, j, i)
    table = _rows(candidates, counts, p, chosen, rejected, np.abs(target), se, round_number)
    names, numbers = np.unique(reason[~kept], return_counts=True)
    return Preferences(table, dict(zip(names.tolist(), numbers.tolist(), strict=True)))


def _usable(candidates: Candidates, drop_truncated: bool) -> Bools:
    """[P, K]: responses that may be in a pair."""
    present = candidates.rows >= 0
    return present & candidates.ended[candidates.rows] if drop_truncated else present


def _pooled(wins: Floats, twins: Ints, usable: Bools) -> tuple[Floats, Bools]:
    """Wins between items (the first of equal responses stands for all), and which slots are items: [P, K, K], [P, K].

    Votes on responses that are not usable do not count, nor do those between equal ones.
    """
    p, i, j = np.nonzero(wins * usable[:, :, None] * usable[:, None, :])
    pooled = np.zeros_like(wins)
    np.add.at(pooled, (p, twins[p, i], twins[p, j]), wins[p, i, j])
    pooled[:, np.arange(wins.shape[1]), np.arange(wins.shape[1])] = 0
    items = np.zeros_like(usable)
    prompt, slot = np.nonzero(usable)
    items[prompt, twins[prompt, slot]] = True
    return pooled, items


def _best_worst(pairs: Pairs, theta: Floats) -> Pairs:
    """One pair a prompt: the strongest item (first of equals) against the weakest (last of equals).

    A prompt with fewer than two items keeps its first pair, which says why it is dropped.
    """
    prompts, start = np.unique(pairs.prompt, return_index=True)
    level = np.round(theta[prompts], 9)
    best = np.where(np.isnan(level), -np.inf, level).argmax(axis=1)
    worst = theta.shape[1] - 1 - np.where(np.isnan(level), np.inf, level)[:, ::-1].argmin(axis=1)
    possible = (~np.isnan(level)).sum(axis=1) >= 2
    first, second = np.minimum(best, worst), np.maximum(best, worst)
    return Pairs(
        prompts,
        np.where(possible, first, pairs.first[start]),
        np.where(possible, second, pairs.second[start]),
        np.where(possible, "", pairs.dropped[start]),
    )


def _rows(
    candidates: Candidates,
    counts: Tally,
    p: Ints,
    chosen: Ints,
    rejected: Ints,
    target: Floats,
    se: Floats,
    round_number: int,
) -> pa.Table:
    of_prompt = candidates.prompts.take(p)
    won = candidates.responses.take(candidates.rows[p, chosen])
    lost = candidates.responses.take(candidates.rows[p, rejected])
    columns = {
        "prompt": of_prompt["messages"],
        "chosen": _assistant(won["text"]),
        "rejected": _assistant(lost["text"]),
        "prompt_id": of_prompt["prompt_id"],
        "round": pa.repeat(pa.scalar(round_number, pa.int32()), len(p)),
        "chosen_index": won["response_index"],
        "rejected_index": lost["response_index"],
        "p_hat": sigmoid(target),
        "target": target,
        "target_se": se,
        "votes_chosen": counts.wins[p, chosen, rejected],
        "votes_rejected": counts.wins[p, rejected, chosen],
        "votes_tie": counts.ties[p, chosen, rejected],
        "votes_abstain": counts.abstain[p, chosen, rejected].astype(np.int32),
        "votes_error": counts.error[p, chosen, rejected].astype(np.int32),
        "prompt_ids": won["prompt_ids"],
        "chosen_ids": won["response_ids"],
        "rejected_ids": lost["response_ids"],
        "chosen_finish_reason": won["finish_reason"],
        "rejected_finish_reason": lost["finish_reason"],
    }
    return pa.table(columns, schema=PREFERENCES)


def _assistant(texts: pa.ChunkedArray) -> pa.Array:
    """Each text as a conversation of one assistant message."""
    turns = pa.StructArray.from_arrays(
        [pa.repeat("assistant", len(texts)), texts.combine_chunks()], fields=list(MESSAGES.value_type)
    )
    return pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), turns)
