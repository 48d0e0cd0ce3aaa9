"""From votes to preferences: counts, strengths, the empirical preference with its logit, and the rows for training.

Responses of a prompt with equal token ids are one item: their votes are pooled, and they never form a pair.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, Floats, Ints
from storage.errors import UserError
from storage.schemas import SCORES
from tasks.labeling.aggregation import Votes, read_votes, sigmoid
from tasks.labeling.aggregation.ensembles import Ensemble, Rule, combine, read_scores, standardise
from tasks.labeling.aggregation.estimate import AnnotatorFit, Estimate, by_reliability, estimate, fit_annotators
from tasks.labeling.aggregation.vote_counts import Blocks
from tasks.labeling.counted_votes import counted_votes
from tasks.labeling.outcome_counts import OutcomeCounts, vote_columns
from tasks.labeling.pairing import Pairs, best_worst, response_pairs, tournament, usable_responses
from tasks.labeling.preference_rows import preference_rows
from tasks.labeling.prior import chosen_variance, score_means
from tasks.labeling.settings import PreferenceSettings
from tasks.labeling.summary import Estimates
from tasks.panel.responses import Responses

_EQUAL = 1e-9  # strengths closer than this differ by rounding only
_BLOCK = 512  # prompts fitted together: memory does not grow with the number of prompts
_ROWS = 2048  # pairs whose texts are joined at once


@dataclass(frozen=True)
class LabelledPairs:
    """The labelled pairs, by prompt then slots.

    labels: the columns of storage.schemas.PREFERENCES without texts and token ids, and `place`, the prompt's row in
    `responses`. dropped: pairs left out, by reason. estimates: what the votes show about annotators.
    counted: the votes as they count, storage.schemas.COUNTED_VOTES.
    """

    responses: Responses
    labels: pa.Table
    dropped: dict[str, int]
    estimates: Estimates
    counted: pa.Table

    def blocks(self) -> Iterator[pa.Table]:
        """The rows of storage.schemas.PREFERENCES, a few thousand at a time, because every pair repeats its texts."""
        for start in range(0, max(len(self.labels), 1), _ROWS):
            yield preference_rows(self.responses, self.labels[start : start + _ROWS])

    @property
    def table(self) -> pa.Table:
        """All rows of storage.schemas.PREFERENCES."""
        return pa.concat_tables(self.blocks())


def make_preferences(
    responses: Responses,
    votes: pa.Table,
    settings: PreferenceSettings,
    round_number: int,
    scores: pa.Table | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> LabelledPairs:
    """Fit strengths to all votes of each prompt and label its pairs.

    The target of a pair is the logit from settings.estimator, with its standard error. By default it is the gap of
    ridge Bradley-Terry strengths.
    `chosen` is the preferred response, or the lower index when both are equal, so target >= 0 and p_hat >= 0.5.
    Ensembles combine `scores` (storage.schemas.SCORES); settings.prior_scores turn them, over the annotators'
    `temperatures`, into the mean of the strengths' prior.

    Raises ValueError for votes on unknown responses, and UserError for settings with annotators that have no votes, and
    for an ensemble without scores.
    """
    columns = vote_columns(votes, responses)
    twins = responses.twins
    usable = usable_responses(responses, settings.drop_truncated)
    annotators = tuple(pc.unique(votes["annotator"]).to_pylist())
    weighted = _weighted_votes(votes, responses, annotators, settings)
    members = _members(scores, responses, settings)

    def blocks() -> Iterator[tuple[int, Votes]]:
        for start in range(0, len(twins), _BLOCK):
            stop = start + _BLOCK
            yield start, weighted.block(start, stop).merged(twins[start:stop], usable[start:stop])

    prior_mean = _prior_mean(scores, responses, settings, temperatures or {})
    auto = settings.prior_variance == "auto"
    if auto:
        voted = np.unique(weighted.prompt[weighted.weight > 0])
        variance = chosen_variance(blocks, voted, twins.shape[1], prior_mean)
        settings = PreferenceSettings.model_validate(settings.model_dump() | {"prior_variance": variance})
    annotator_fit = _fit_annotators(blocks, annotators, responses, settings)
    tables: list[pa.Table] = []
    dropped: dict[str, int] = {}
    notes: dict[str, int] = {}
    for start, block in blocks():
        stop = min(start + _BLOCK, len(twins))
        items = _items(twins[start:stop], usable[start:stop])
        if members is None:
            mean = 0.0 if prior_mean is None else prior_mean[start:stop]
            fitted = estimate(block, items, settings, annotator_fit, mean)
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
    if auto:
        estimates = estimates.with_prior_variance(settings.variance)
    counted = counted_votes(weighted, annotator_fit, responses.prompt_ids, annotators)
    return LabelledPairs(responses, pa.concat_tables(tables), dict(sorted(dropped.items())), estimates, counted)


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


def _weighted_votes(
    votes: pa.Table, responses: Responses, annotators: tuple[str, ...], settings: PreferenceSettings
) -> Votes:
    _check_names(settings.weights, annotators, "preferences.weights")
    weights = np.array([settings.weights.get(name, 1.0) for name in annotators], dtype=np.float64)
    weights[[name in settings.prior_scores for name in annotators]] = 0.0  # they are heard through the prior
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


def _prior_mean(
    scores: pa.Table | None, responses: Responses, settings: PreferenceSettings, temperatures: Mapping[str, float]
) -> Floats | None:
    """The mean [P, K] of the strengths' prior; None for 0."""
    if not settings.prior_scores:
        return None
    table = SCORES.empty_table() if scores is None else scores
    return score_means(table, responses, settings.prior_scores, temperatures)


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
