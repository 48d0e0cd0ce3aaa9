"""All estimators behind two functions: `fit_annotators` over all prompts, then `estimate` for each block of prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from storage.arrays import Bools, Floats
from tasks.labeling.aggregation.arrays import Gaps, PairLogits
from tasks.labeling.aggregation.bradley_terry import bradley_terry
from tasks.labeling.aggregation.counts import pair_logits
from tasks.labeling.aggregation.crowd_bt import crowd_bt
from tasks.labeling.aggregation.davidson import davidson
from tasks.labeling.aggregation.dawid_skene import dawid_skene, posterior_logits
from tasks.labeling.aggregation.general import average_rows, general_preferences
from tasks.labeling.aggregation.groups import annotator_groups, worst_off
from tasks.labeling.aggregation.plackett_luce import plackett_luce, votes_to_rankings
from tasks.labeling.aggregation.reliability import Reliability, estimate_reliability
from tasks.labeling.aggregation.vote_counts import Blocks, count_votes, indices, sample
from tasks.labeling.aggregation.votes import Votes
from tasks.labeling.settings import PreferenceSettings
from tasks.labeling.summary import Estimates

_SAMPLE = 20_000  # votes of an annotator that its accuracy or group is estimated from


@dataclass(frozen=True)
class AnnotatorFit:
    """What all votes show about annotators; None when the estimator does not need it."""

    reliability: Reliability | None = None
    groups: Floats | None = None  # [A, U], responsibilities

    def summary(self, annotators: tuple[str, ...]) -> Estimates:
        """For the manifest of a label stage."""
        if self.reliability is not None:
            return self.reliability.summary()
        if self.groups is not None:
            return Estimates(groups=dict(zip(annotators, self.groups.round(6).tolist(), strict=True)))
        return Estimates()


@dataclass(frozen=True)
class Estimate:
    """Logits of pairs in a block of prompts, and a score of each response, for its best and worst."""

    gaps: Gaps
    score: Floats  # [P, K], NaN where absent
    notes: Mapping[str, int]  # what to report -> how often it occurred


def fit_annotators(
    blocks: Blocks, annotators: tuple[str, ...], slots: int, settings: PreferenceSettings
) -> AnnotatorFit:
    """What `settings` require to know about annotators before any prompt is fitted.

    Passes over `blocks` keep a bounded number of votes an annotator, for any number of prompts. Raises ValueError for
    pinned or gold annotators without votes.
    """
    if settings.reliability != "none":
        return AnnotatorFit(
            estimate_reliability(
                blocks,
                annotators,
                slots,
                prior_variance=settings.variance,
                min_votes=settings.min_votes,
                rule=settings.reliability,
                pinned=settings.pinned,
                gold=tuple(settings.gold),
            )
        )
    if settings.estimator == "dawid_skene":
        return AnnotatorFit(_accuracies(blocks, annotators, slots, settings))
    if settings.estimator == "maxmin":
        votes = sample(blocks, count_votes(blocks, annotators, slots), np.ones(len(annotators), bool), _SAMPLE)
        shape = (int(votes.prompt.max(initial=-1)) + 1, slots)
        responsibilities, _ = annotator_groups(
            votes, shape, len(annotators), settings.groups, prior_variance=settings.variance
        )
        return AnnotatorFit(groups=responsibilities)
    return AnnotatorFit()


def estimate(
    votes: Votes,
    items: Bools,
    settings: PreferenceSettings,
    annotators: AnnotatorFit,
    prior_mean: Floats | float = 0.0,
) -> Estimate:
    """Logits of every pair of `items` [P, K] from the votes of these prompts, by settings.estimator.

    prior_mean: of the strengths, [P, K] or one for all; only bradley_terry with reliability=none uses it.
    """
    shape, v = (items.shape[0], items.shape[1]), settings.variance
    estimator = settings.estimator
    if estimator == "plackett_luce":
        rankings, explained = votes_to_rankings(votes, shape[1])
        wins = votes.take(~explained).wins(shape)
        fit = plackett_luce(rankings, shape, wins=wins, prior_variance=v, mask=items)
        single = int((votes.ranked & ~explained).sum())
        notes = {"votes of rankings with ties or gaps, counted singly": single} if single else {}
        return Estimate(fit, fit.theta, notes)
    if estimator == "davidson":
        tied = votes.share == 0.5
        ties = votes.take(tied).wins(shape) * 2
        tie_fit = davidson(
            votes.take(~tied).wins(shape), ties, prior_variance=v, tie_variance=settings.tie_variance, mask=items
        )
        return Estimate(tie_fit, tie_fit.strengths.theta, {})
    if estimator == "dawid_skene":
        reliability = _required(annotators.reliability)
        logits = posterior_logits(votes, shape, reliability.used, np.maximum(reliability.votes, 1.0))
        return _of_pairs(logits, items)
    if estimator == "general":
        logits = general_preferences(votes.wins(shape), prior_variance=v, cycle_variance=settings.cycle_variance)
        return _of_pairs(logits, items)
    if estimator == "maxmin":
        if annotators.groups is None:
            raise ValueError("maxmin needs the groups that fit_annotators() returns")
        lowest = worst_off(votes, shape, annotators.groups, prior_variance=v, mask=items)
        return Estimate(lowest, lowest.score, {})
    if annotators.reliability is not None:
        weighted = crowd_bt(votes, shape, annotators.reliability.used, prior_variance=v, mask=items)
        return Estimate(weighted, weighted.theta, {})
    wins = votes.wins(shape)
    strengths = bradley_terry(wins, prior_variance=v, prior_mean=prior_mean, mask=items)
    return Estimate(pair_logits(wins) if estimator == "empirical_logit" else strengths, strengths.theta, {})


def by_reliability(votes: Votes, annotators: AnnotatorFit) -> Votes:
    """The votes as they count with honesty eta: reversed below one half, with |2 eta - 1| times their weight."""
    if annotators.reliability is None:
        return votes
    used = annotators.reliability.used[votes.annotator]
    return replace(
        votes,
        share=np.where(used < 0.5, 1 - votes.share, votes.share),
        weight=votes.weight * np.abs(2 * used - 1),
    )


def _of_pairs(logits: PairLogits, items: Bools) -> Estimate:
    return Estimate(logits, np.where(items, average_rows(logits), np.nan), {})


def _required(reliability: Reliability | None) -> Reliability:
    if reliability is None:
        raise ValueError("dawid_skene needs the accuracies that fit_annotators() returns")
    return reliability


def _accuracies(blocks: Blocks, annotators: tuple[str, ...], slots: int, settings: PreferenceSettings) -> Reliability:
    """One-coin accuracies. An annotator whose accuracy is not identified gets the mean of the others, or 0.7."""
    counts = count_votes(blocks, annotators, slots)
    pins = dict(settings.pinned) | dict.fromkeys(settings.gold, 1.0)
    known = np.zeros(len(annotators), dtype=bool)
    pinned = indices(annotators, pins)
    known[pinned] = True
    missing = counts.not_identified(settings.min_votes, known)
    free = np.array([name not in missing for name in annotators]) & ~known
    eta, passes = np.full(len(annotators), np.nan), 0
    if free.any():
        votes = sample(blocks, counts, free | known, _SAMPLE)
        _, pair = np.unique(votes.pair_keys(slots), return_inverse=True)
        fixed = np.full(len(annotators), np.nan)
        fixed[pinned] = list(pins.values())
        fit = dawid_skene(pair, votes.annotator, votes.share, weight=votes.weight, pinned=fixed)
        eta[: len(fit.sensitivity)], passes = fit.sensitivity, fit.passes
    eta[~free] = np.nan
    mean = float(np.average(eta[free], weights=counts.votes[free])) if free.any() else 0.7
    used = np.where(np.isnan(eta), mean, eta)
    used[pinned] = list(pins.values())
    return Reliability(annotators, eta, used, counts.votes, counts.shared, missing, passes)
