"""From votes to preferences: counts, strengths, the empirical preference with its logit, and the rows for training.

Responses of a prompt with equal token ids are one item: their votes are pooled, and they never form a pair.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, Floats, Ints
from storage.errors import UserError
from storage.schemas import MESSAGES, PREFERENCES, SCORES
from tasks.labeling.aggregation import Votes, empirical_logit, read_votes, sigmoid
from tasks.labeling.aggregation.ensembles import Ensemble, Rule, combine, read_scores, standardise
from tasks.labeling.aggregation.estimate import AnnotatorFit, Estimate, by_reliability, estimate, fit_annotators
from tasks.labeling.aggregation.vote_counts import Blocks
from tasks.labeling.aggregation.votes import places
from tasks.labeling.pairing import Pairs, best_worst, response_pairs, tournament, usable_responses
from tasks.labeling.settings import PreferenceSettings
from tasks.labeling.summary import Estimates
from tasks.panel.responses import Responses

_EQUAL = 1e-9  # strengths closer than this differ by rounding only
_BLOCK = 512  # prompts fitted together: memory does not grow with the number of prompts
_ROWS = 2048  # pairs whose texts are joined at once
_RESPONSE_COLUMNS = ["text", "prompt_ids", "response_ids", "finish_reason"]
_OUTCOMES = ["a", "b", "tie", "abstain", "error"]


@dataclass(frozen=True)
class OutcomeCounts:
    """Votes by prompt and slots, float [P, K, K]. wins[p, i, j]: votes for i over j; the others are symmetric."""

    wins: Floats
    ties: Floats
    abstain: Floats
    error: Floats


@dataclass(frozen=True)
class LabelledPairs:
    """The labelled pairs, by prompt then slots.

    labels: the columns of storage.schemas.PREFERENCES without texts and token ids, and `place`, the prompt's row in
    `responses`. dropped: pairs left out, by reason. estimates: what the votes show about annotators.
    """

    responses: Responses
    labels: pa.Table
    dropped: dict[str, int]
    estimates: Estimates

    def blocks(self) -> Iterator[pa.Table]:
        """The rows of storage.schemas.PREFERENCES, a few thousand at a time, because every pair repeats its texts."""
        for start in range(0, max(len(self.labels), 1), _ROWS):
            yield _rows(self.responses, self.labels[start : start + _ROWS])

    @property
    def table(self) -> pa.Table:
        """All rows of storage.schemas.PREFERENCES."""
        return pa.concat_tables(self.blocks())


@dataclass(frozen=True)
class _VoteColumns:
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


def make_preferences(
    responses: Responses,
    votes: pa.Table,
    settings: PreferenceSettings,
    round_number: int,
    scores: pa.Table | None = None,
) -> LabelledPairs:
    """Fit strengths to all votes of each prompt and label its pairs.

    The target of a pair is the logit from settings.estimator, with its standard error. By default it is the gap of
    ridge Bradley-Terry strengths, or the Haldane-Anscombe logit for a prompt with votes on a single pair of items.
    `chosen` is the preferred response, or the lower index when both are equal, so target >= 0 and p_hat >= 0.5.
    Ensembles combine `scores` (storage.schemas.SCORES).

    Raises ValueError for votes on unknown responses, and UserError for settings with annotators that have no votes, and
    for an ensemble without scores.
    """
    columns = _vote_columns(votes, responses)
    twins = responses.twins
    usable = usable_responses(responses, settings.drop_truncated)
    annotators = tuple(pc.unique(votes["annotator"]).to_pylist())
    weighted = _weighted_votes(votes, responses, annotators, settings)
    members = _members(scores, responses, settings)

    def blocks() -> Iterator[tuple[int, Votes]]:
        for start in range(0, len(twins), _BLOCK):
            stop = start + _BLOCK
            yield start, weighted.block(start, stop).merged(twins[start:stop], usable[start:stop])

    annotator_fit = _fit_annotators(blocks, annotators, responses, settings)
    tables: list[pa.Table] = []
    dropped: dict[str, int] = {}
    notes: dict[str, int] = {}
    for start, block in blocks():
        stop = min(start + _BLOCK, len(twins))
        items = _items(twins[start:stop], usable[start:stop])
        if members is None:
            fitted = estimate(block, items, settings, annotator_fit)
        else:
            fitted = _ensemble(members[start:stop], items, settings)
        pairs = response_pairs(responses, drop_truncated=settings.drop_truncated, prompts=slice(start, stop))
        counts = columns.counts(start, (stop - start, twins.shape[1]))
        wins = by_reliability(block, annotator_fit).wins((stop - start, twins.shape[1]))
        labelled = _label(pairs, fitted, wins, counts, twins[start:stop], settings)
        tables.append(_labels(responses, counts, start, labelled, round_number))
        for reason, count in labelled.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        for note, count in fitted.notes.items():
            notes[note] = notes.get(note, 0) + count
    estimates = annotator_fit.summary(annotators).with_notes(notes)
    return LabelledPairs(responses, pa.concat_tables(tables), dict(sorted(dropped.items())), estimates)


@dataclass(frozen=True)
class _Labels:
    """The labelled pairs of a block, all [n], and the number of dropped pairs, by reason."""

    prompt: Ints
    chosen: Ints
    rejected: Ints
    target: Floats
    se: Floats
    dropped: dict[str, int]


def _label(
    pairs: Pairs, fitted: Estimate, wins: Floats, counts: OutcomeCounts, twins: Ints, settings: PreferenceSettings
) -> _Labels:
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
    if first_won is not None:  # the winner of the tournament must also be the stronger response
        reason[(reason == "") & ((target > 0) != first_won)] = "tournament"
    kept = reason == ""
    p, i, j, target, se = p[kept], i[kept], j[kept], target[kept], se[kept]
    target = np.where(np.abs(target) < _EQUAL, 0.0, target)
    names, numbers = np.unique(reason[~kept], return_counts=True)
    return _Labels(
        p,
        np.where(target >= 0, i, j),
        np.where(target >= 0, j, i),
        np.abs(target),
        se,
        dict(zip(names.tolist(), numbers.tolist(), strict=True)),
    )


def _vote_columns(votes: pa.Table, responses: Responses) -> _VoteColumns:
    prompt = places(votes["prompt_id"], responses.prompt_ids, np.int32)
    a, b = (votes[name].to_numpy().astype(np.int16) for name in ("index_a", "index_b"))
    low, high = np.minimum(a, b).min(initial=0), np.maximum(a, b).max(initial=0)
    if (prompt < 0).any() or high >= responses.rows.shape[1] or low < 0:
        raise ValueError("there are votes on unknown responses: the votes belong to another generate stage")
    outcome = places(votes["outcome"], pa.array(_OUTCOMES), np.int8)
    order = np.argsort(prompt, kind="stable")
    return _VoteColumns(prompt[order], a[order], b[order], outcome[order])


def _weighted_votes(
    votes: pa.Table, responses: Responses, annotators: tuple[str, ...], settings: PreferenceSettings
) -> Votes:
    _check_names(settings.weights, annotators, "preferences.weights")
    weights = np.array([settings.weights.get(name, 1.0) for name in annotators], dtype=np.float64)
    ids = responses.prompt_ids
    return read_votes(votes, ids, annotators, weights, soft=settings.soft_votes)


def _fit_annotators(
    blocks: Blocks, annotators: tuple[str, ...], responses: Responses, settings: PreferenceSettings
) -> AnnotatorFit:
    _check_names(settings.pinned, annotators, "preferences.pinned")
    _check_names(settings.gold, annotators, "preferences.gold")
    return fit_annotators(blocks, annotators, responses.rows.shape[1], settings)


def _check_names(names: Iterable[str], annotators: tuple[str, ...], key: str) -> None:
    """Raises UserError for names without votes."""
    unknown = sorted(set(names) - set(annotators))
    if unknown:
        raise UserError(
            f"there are no votes of {', '.join(unknown)}", where=key, remedy=f"choose from: {', '.join(annotators)}"
        )


def _members(scores: pa.Table | None, responses: Responses, settings: PreferenceSettings) -> Floats | None:
    """Standardised scores [P, K, A] for an ensemble; None for other estimators."""
    if not settings.estimator.startswith("ensemble_"):
        return None
    ids = responses.prompt_ids
    names, values = read_scores(SCORES.empty_table() if scores is None else scores, ids, responses.rows.shape[1])
    if not names:
        raise UserError(
            "an ensemble needs scores, and no annotator of this panel gives any",
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
    """[P, K]: slots that are items. The first of equal responses represents all, if any of them is usable."""
    items = np.zeros_like(usable)
    prompt, slot = np.nonzero(usable)
    items[prompt, twins[prompt, slot]] = True
    return items


def _labels(responses: Responses, counts: OutcomeCounts, start: int, pairs: _Labels, round_number: int) -> pa.Table:
    """LabelledPairs.labels of a block of prompts that starts at `start`."""
    p, chosen, rejected = pairs.prompt, pairs.chosen, pairs.rejected
    columns = {
        "place": start + p,
        "prompt_id": responses.prompt_ids.take(start + p),
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


def _rows(responses: Responses, labels: pa.Table) -> pa.Table:
    """`labels` with texts and token ids. The index of a response is its slot."""
    place, chosen, rejected = (labels[name].to_numpy() for name in ("place", "chosen_index", "rejected_index"))
    sides = np.concatenate([responses.rows[place, chosen], responses.rows[place, rejected]])
    texts = responses.table(sides, _RESPONSE_COLUMNS)
    won, lost = texts[: len(labels)], texts[len(labels) :]
    columns = {
        "prompt": responses.prompt_table(place, ["messages"])["messages"],
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
