"""Votes to preferences: tally, strengths, empirical preference and its logit, and the rows that training reads.

Responses of a prompt with the same token ids are one item: their votes are pooled, and they make no pair together.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, Floats, Ints
from storage.errors import UserError
from storage.schemas import MESSAGES, PREFERENCES, SCORES
from tasks.labeling.aggregation import Votes, empirical_logit, read_votes, sigmoid
from tasks.labeling.aggregation.ensembles import Ensemble, Rule, combine, read_scores, standardise
from tasks.labeling.aggregation.estimate import Estimate, Learnt, estimate, heard, learn
from tasks.labeling.aggregation.vote_counts import Blocks
from tasks.labeling.aggregation.votes import places
from tasks.labeling.pairing import Pairs, best_worst, candidate_pairs, tournament, usable_responses
from tasks.labeling.settings import PreferenceSettings
from tasks.panel.responses import Responses

_EQUAL = 1e-9  # strengths closer than this differ by rounding only
_BLOCK = 512  # prompts fitted together: what is held at once does not grow with the number of prompts
_ROWS = 2048  # pairs whose texts are put together at once
_SAID = ["text", "prompt_ids", "response_ids", "finish_reason"]
_OUTCOMES = ["a", "b", "tie", "abstain", "error"]


@dataclass(frozen=True)
class Tally:
    """Votes counted by prompt and slots, float [P, K, K]. wins[p, i, j]: i beat j; the others are symmetric."""

    wins: Floats
    ties: Floats
    abstain: Floats
    error: Floats


@dataclass(frozen=True)
class Preferences:
    """The labelled pairs, by prompt then slots; `dropped` counts the pairs left out, by reason.

    `labels` are the columns of storage.schemas.PREFERENCES but for texts and token ids, and `place`, the prompt's row
    in `candidates`. `learnt` is what was learnt about annotators (Reliability.summary; groups), and notes with their
    counts: plain data, empty when there is nothing to tell.
    """

    candidates: Responses
    labels: pa.Table
    dropped: dict[str, int]
    learnt: dict[str, Any] = field(default_factory=dict)

    def blocks(self) -> Iterator[pa.Table]:
        """The rows of storage.schemas.PREFERENCES, a few thousand at a time: texts come once for every pair."""
        for start in range(0, max(len(self.labels), 1), _ROWS):
            yield _rows(self.candidates, self.labels[start : start + _ROWS])

    @property
    def table(self) -> pa.Table:
        """All rows of storage.schemas.PREFERENCES at once."""
        return pa.concat_tables(self.blocks())


@dataclass(frozen=True)
class _Cast:
    """What tallies are counted from, all [n], in the order of prompts: slots, and the outcome's place in _OUTCOMES."""

    prompt: Ints
    a: Ints
    b: Ints
    outcome: Ints

    def tally(self, start: int, shape: tuple[int, int]) -> Tally:
        """Counts for the prompts start .. start + P - 1, for shape (P, K)."""
        low, high = np.searchsorted(self.prompt, [start, start + shape[0]])
        prompt, a, b = (column[low:high].astype(np.int64) for column in (self.prompt, self.a, self.b))
        prompt = prompt - start
        outcome, full = self.outcome[low:high], (*shape, shape[1])

        def count(which: str, winner: Ints, loser: Ints) -> Floats:
            chosen = outcome == _OUTCOMES.index(which)
            flat = np.ravel_multi_index((prompt[chosen], winner[chosen], loser[chosen]), full)
            return np.bincount(flat, minlength=int(np.prod(full))).reshape(full).astype(np.float64)

        return Tally(
            wins=count("a", a, b) + count("b", b, a),
            ties=count("tie", a, b) + count("tie", b, a),
            abstain=count("abstain", a, b) + count("abstain", b, a),
            error=count("error", a, b) + count("error", b, a),
        )


def make_preferences(
    candidates: Responses,
    votes: pa.Table,
    settings: PreferenceSettings,
    round_number: int,
    scores: pa.Table | None = None,
) -> Preferences:
    """Fit strengths to all votes of each prompt and label its pairs.

    The target is the logit that settings.estimator gives the pair, with its standard error: by default the gap of
    ridge Bradley-Terry strengths; where a prompt has votes on a single pair of items only, the Haldane-Anscombe logit
    of that pair. `chosen` is the preferred one, the lower index when they are equal, so target >= 0 and p_hat >= 0.5.
    `scores` (storage.schemas.SCORES) are what ensembles are made of.

    Raises ValueError for votes on responses that are not candidates, and UserError for settings that name annotators
    who are not on the panel, and for an ensemble without scores.
    """
    cast = _cast(votes, candidates)
    twins = candidates.twins
    usable = usable_responses(candidates, settings.drop_truncated)
    annotators = tuple(pc.unique(votes["annotator"]).to_pylist())
    ballot = _ballot(votes, candidates, annotators, settings)
    members = _members(scores, candidates, settings)

    def blocks() -> Iterator[tuple[int, Votes]]:
        for start in range(0, len(twins), _BLOCK):
            stop = start + _BLOCK
            yield start, ballot.block(start, stop).merged(twins[start:stop], usable[start:stop])

    learnt = _learn(blocks, annotators, candidates, settings)
    tables: list[pa.Table] = []
    dropped: dict[str, int] = {}
    notes: dict[str, int] = {}
    for start, block in blocks():
        stop = min(start + _BLOCK, len(twins))
        items = _items(twins[start:stop], usable[start:stop])
        if members is None:
            fitted = estimate(block, items, settings, learnt)
        else:
            fitted = _ensemble(members[start:stop], items, settings)
        mine = candidate_pairs(candidates, drop_truncated=settings.drop_truncated, prompts=slice(start, stop))
        counts = cast.tally(start, (stop - start, twins.shape[1]))
        wins = heard(block, learnt).wins((stop - start, twins.shape[1]))
        labelled = _label(mine, fitted, wins, counts, twins[start:stop], settings)
        tables.append(_labels(candidates, counts, start, labelled, round_number))
        for reason, count in labelled.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        for note, count in fitted.note.items():
            notes[note] = notes.get(note, 0) + count
    summary = learnt.summary(annotators) | ({"notes": notes} if notes else {})
    return Preferences(candidates, pa.concat_tables(tables), dict(sorted(dropped.items())), summary)


@dataclass(frozen=True)
class _Labelled:
    """The pairs of a block that stay, all [n], and the number of those that do not, by reason."""

    prompt: Ints
    chosen: Ints
    rejected: Ints
    target: Floats
    se: Floats
    dropped: dict[str, int]


def _label(
    pairs: Pairs, fitted: Estimate, wins: Floats, counts: Tally, twins: Ints, settings: PreferenceSettings
) -> _Labelled:
    first_won: Bools | None = None
    if settings.pairs == "best_worst":
        pairs = best_worst(pairs, fitted.score)
    elif settings.pairs == "tournament":
        pairs, first_won = tournament(pairs, wins, ~np.isnan(fitted.score))
    reason = pairs.dropped.astype("<U12")
    p, i, j = pairs.prompt, pairs.first, pairs.second
    direct = counts.wins[p, i, j] + counts.wins[p, j, i] + counts.ties[p, i, j]
    reason[(reason == "") & (direct < settings.quorum)] = "quorum"
    item_i, item_j = twins[p, i], twins[p, j]
    target, se = fitted.gaps.gaps(p, item_i, item_j)
    if settings.estimator == "bradley_terry":
        played = wins + wins.transpose(0, 2, 1)
        cast = played[p, item_i, item_j]
        alone = ((played > 0).sum(axis=(1, 2))[p] == 2) & (cast > 0)  # one pair, counted from both sides
        logit, variance = empirical_logit(np.where(alone, wins[p, item_i, item_j], 0), np.where(alone, cast, 0))
        target, se = np.where(alone, logit, target), np.where(alone, np.sqrt(variance), se)
    reason[(reason == "") & np.isnan(target)] = "unscored"
    if first_won is not None:  # the bracket's winner must also be the stronger one
        reason[(reason == "") & ((target > 0) != first_won)] = "tournament"
    kept = reason == ""
    p, i, j, target, se = p[kept], i[kept], j[kept], target[kept], se[kept]
    target = np.where(np.abs(target) < _EQUAL, 0.0, target)
    names, numbers = np.unique(reason[~kept], return_counts=True)
    return _Labelled(
        p,
        np.where(target >= 0, i, j),
        np.where(target >= 0, j, i),
        np.abs(target),
        se,
        dict(zip(names.tolist(), numbers.tolist(), strict=True)),
    )


def _cast(votes: pa.Table, candidates: Responses) -> _Cast:
    prompt = places(votes["prompt_id"], candidates.prompt_ids, np.int32)
    a, b = (votes[name].to_numpy().astype(np.int16) for name in ("index_a", "index_b"))
    low, high = np.minimum(a, b).min(initial=0), np.maximum(a, b).max(initial=0)
    if (prompt < 0).any() or high >= candidates.rows.shape[1] or low < 0:
        raise ValueError("there are votes on responses that are not candidates")
    outcome = places(votes["outcome"], pa.array(_OUTCOMES), np.int8)
    order = np.argsort(prompt, kind="stable")
    return _Cast(prompt[order], a[order], b[order], outcome[order])


def _ballot(votes: pa.Table, candidates: Responses, annotators: tuple[str, ...], settings: PreferenceSettings) -> Votes:
    _known(settings.weights, annotators, "preferences.weights")
    weights = np.array([settings.weights.get(name, 1.0) for name in annotators], dtype=np.float64)
    ids = candidates.prompt_ids
    return read_votes(votes, ids, annotators, weights, soft=settings.soft_votes)


def _learn(blocks: Blocks, annotators: tuple[str, ...], candidates: Responses, settings: PreferenceSettings) -> Learnt:
    _known(settings.pinned, annotators, "preferences.pinned")
    _known(settings.gold, annotators, "preferences.gold")
    return learn(blocks, annotators, candidates.rows.shape[1], settings)


def _known(names: Iterable[str], annotators: tuple[str, ...], key: str) -> None:
    unknown = sorted(set(names) - set(annotators))
    if unknown:
        raise UserError(
            f"there are no votes of {', '.join(unknown)}", where=key, remedy=f"name some of: {', '.join(annotators)}"
        )


def _members(scores: pa.Table | None, candidates: Responses, settings: PreferenceSettings) -> Floats | None:
    """Standardised scores [P, K, A] for an ensemble, else None."""
    if not settings.estimator.startswith("ensemble_"):
        return None
    ids = candidates.prompt_ids
    given = SCORES.empty_table() if scores is None else scores
    names, values = read_scores(given, ids, candidates.rows.shape[1])
    if not names:
        raise UserError(
            "an ensemble is made of scores, and no annotator of this panel gives any",
            where=f"preferences.estimator={settings.estimator}",
            remedy="add annotators that score (reward_model, rule, ...), or use estimator=bradley_terry",
        )
    return standardise(values)


_RULES: dict[str, Rule] = {
    "ensemble_mean": "mean",
    "ensemble_worst": "worst",
    "ensemble_uncertainty": "uncertainty",
}


def _ensemble(members: Floats, items: Bools, settings: PreferenceSettings) -> Estimate:
    score = np.where(items, combine(members, _RULES[settings.estimator], settings.penalty), np.nan)
    return Estimate(Ensemble(score, members), score, {})


def _items(twins: Ints, usable: Bools) -> Bools:
    """[P, K]: slots that are items. The first of equal responses stands for all, whichever of them are usable."""
    items = np.zeros_like(usable)
    prompt, slot = np.nonzero(usable)
    items[prompt, twins[prompt, slot]] = True
    return items


def _labels(candidates: Responses, counts: Tally, start: int, pairs: _Labelled, round_number: int) -> pa.Table:
    """Preferences.labels of a block of prompts that begins at `start`."""
    p, chosen, rejected = pairs.prompt, pairs.chosen, pairs.rejected
    columns = {
        "place": start + p,
        "prompt_id": candidates.prompt_ids.take(start + p),
        "round": pa.repeat(pa.scalar(round_number, pa.int32()), len(p)),
        "chosen_index": chosen.astype(np.int32),
        "rejected_index": rejected.astype(np.int32),
        "p_hat": sigmoid(pairs.target),
        "target": pairs.target,
        "target_se": pairs.se,
        "votes_chosen": counts.wins[p, chosen, rejected],
        "votes_rejected": counts.wins[p, rejected, chosen],
        "votes_tie": counts.ties[p, chosen, rejected],
        "votes_abstain": counts.abstain[p, chosen, rejected].astype(np.int32),
        "votes_error": counts.error[p, chosen, rejected].astype(np.int32),
    }
    return pa.table(columns)


def _rows(candidates: Responses, labels: pa.Table) -> pa.Table:
    """`labels` with what was said; a response's index is its slot."""
    place, chosen, rejected = (labels[name].to_numpy() for name in ("place", "chosen_index", "rejected_index"))
    sides = np.concatenate([candidates.rows[place, chosen], candidates.rows[place, rejected]])
    said = candidates.table(sides, _SAID)
    won, lost = said[: len(labels)], said[len(labels) :]
    columns = {
        "prompt": candidates.prompt_table(place, ["messages"])["messages"],
        "chosen": _assistant(won["text"]),
        "rejected": _assistant(lost["text"]),
        "prompt_ids": won["prompt_ids"],
        "chosen_ids": won["response_ids"],
        "rejected_ids": lost["response_ids"],
        "chosen_finish_reason": won["finish_reason"],
        "rejected_finish_reason": lost["finish_reason"],
    }
    columns |= {name: labels[name] for name in labels.column_names if name != "place"}
    return pa.table({name: columns[name] for name in PREFERENCES.names}, schema=PREFERENCES)


def _assistant(texts: pa.ChunkedArray) -> pa.Array:
    """Each text as a conversation of one assistant message."""
    turns = pa.StructArray.from_arrays(
        [pa.repeat("assistant", len(texts)), texts.combine_chunks()], fields=list(MESSAGES.value_type)
    )
    return pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), turns)
