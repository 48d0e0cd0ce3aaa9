"""One door to all estimators: what is learnt about annotators over all prompts, then strengths block by block."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from storage.arrays import Bools, Floats
from tasks.labeling.aggregation.arrays import Gaps, PairLogits
from tasks.labeling.aggregation.bradley_terry import bradley_terry
from tasks.labeling.aggregation.counts import pair_logits
from tasks.labeling.aggregation.crowd_bt import noisy_bradley_terry
from tasks.labeling.aggregation.davidson import davidson
from tasks.labeling.aggregation.dawid_skene import dawid_skene, judged
from tasks.labeling.aggregation.general import average_rows, general_preferences
from tasks.labeling.aggregation.groups import annotator_groups, worst_off
from tasks.labeling.aggregation.plackett_luce import plackett_luce, votes_to_rankings
from tasks.labeling.aggregation.reliability import Reliability, estimate_reliability
from tasks.labeling.aggregation.vote_counts import Blocks, indices, sample, take_census
from tasks.labeling.aggregation.votes import Votes
from tasks.labeling.settings import PreferenceSettings

_SAMPLE = 20_000  # votes of an annotator that what is learnt about it rests on


@dataclass(frozen=True)
class Learnt:
    """What all votes say about annotators; None where the estimator does not ask."""

    reliability: Reliability | None = None
    groups: Floats | None = None  # [A, U], responsibilities

    def summary(self, annotators: tuple[str, ...]) -> dict[str, Any]:
        """As plain data, empty when nothing was learnt."""
        result: dict[str, Any] = {} if self.reliability is None else self.reliability.summary()
        if self.groups is not None:
            result["groups"] = dict(zip(annotators, self.groups.round(6).tolist(), strict=True))
        return result


@dataclass(frozen=True)
class Estimate:
    """Logits of a block of prompts: of pairs, and a score of each response by itself (for the best and the worst)."""

    gaps: Gaps
    score: Floats  # [P, K], NaN where absent
    note: Mapping[str, int]  # things to be told, with how often they occurred


def learn(blocks: Blocks, annotators: tuple[str, ...], slots: int, settings: PreferenceSettings) -> Learnt:
    """What `settings` ask to be known about annotators before any prompt is fitted.

    Passes over `blocks` keep a bounded number of votes an annotator, however many prompts there are. Raises ValueError
    for pinned or gold annotators that are not there.
    """
    if settings.reliability != "none":
        return Learnt(
            estimate_reliability(
                blocks,
                annotators,
                slots,
                prior_variance=settings.prior_variance,
                min_votes=settings.min_votes,
                rule=settings.reliability,
                pinned=settings.pinned,
                gold=tuple(settings.gold),
            )
        )
    if settings.estimator == "dawid_skene":
        return Learnt(_accuracies(blocks, annotators, slots, settings))
    if settings.estimator == "maxmin":
        votes = sample(blocks, take_census(blocks, annotators, slots), np.ones(len(annotators), bool), _SAMPLE)
        shape = (int(votes.prompt.max(initial=-1)) + 1, slots)
        responsibilities, _ = annotator_groups(
            votes, shape, len(annotators), settings.groups, prior_variance=settings.prior_variance
        )
        return Learnt(groups=responsibilities)
    return Learnt()


def estimate(votes: Votes, items: Bools, settings: PreferenceSettings, learnt: Learnt) -> Estimate:
    """Logits of every pair of `items` [P, K] from the votes of these prompts, by settings.estimator."""
    shape, v = (items.shape[0], items.shape[1]), settings.prior_variance
    estimator = settings.estimator
    if estimator == "plackett_luce":
        rankings, explained = votes_to_rankings(votes, shape[1])
        wins = votes.take(~explained).wins(shape)
        fit = plackett_luce(rankings, shape, wins=wins, prior_variance=v, mask=items)
        loose = int((votes.ranked & ~explained).sum())
        return Estimate(fit, fit.theta, {"votes of rankings with ties or gaps, counted singly": loose} if loose else {})
    if estimator == "davidson":
        tied = votes.share == 0.5
        ties = votes.take(tied).wins(shape) * 2
        tie_fit = davidson(
            votes.take(~tied).wins(shape), ties, prior_variance=v, tie_variance=settings.tie_variance, mask=items
        )
        return Estimate(tie_fit, tie_fit.strengths.theta, {})
    if estimator == "dawid_skene":
        known = _of(learnt.reliability)
        return _of_pairs(judged(votes, shape, known.used, np.maximum(known.votes, 1.0)), items)
    if estimator == "general":
        logits = general_preferences(votes.wins(shape), prior_variance=v, cycle_variance=settings.cycle_variance)
        return _of_pairs(logits, items)
    if estimator == "maxmin":
        if learnt.groups is None:
            raise ValueError("maxmin needs what learn() returns")
        lowest = worst_off(votes, shape, learnt.groups, prior_variance=v, mask=items)
        return Estimate(lowest, lowest.score, {})
    if learnt.reliability is not None:
        noisy = noisy_bradley_terry(votes, shape, learnt.reliability.used, prior_variance=v, mask=items)
        return Estimate(noisy, noisy.theta, {})
    wins = votes.wins(shape)
    strengths = bradley_terry(wins, prior_variance=v, mask=items)
    return Estimate(pair_logits(wins) if estimator == "empirical_logit" else strengths, strengths.theta, {})


def heard(votes: Votes, learnt: Learnt) -> Votes:
    """The votes as they count with what is known of honesty: reversed below one half, lighter the nearer to it."""
    if learnt.reliability is None:
        return votes
    used = learnt.reliability.used[votes.annotator]
    return replace(
        votes,
        share=np.where(used < 0.5, 1 - votes.share, votes.share),
        weight=votes.weight * np.abs(2 * used - 1),
    )


def _of_pairs(logits: PairLogits, items: Bools) -> Estimate:
    return Estimate(logits, np.where(items, average_rows(logits), np.nan), {})


def _of(reliability: Reliability | None) -> Reliability:
    if reliability is None:
        raise ValueError("dawid_skene needs what learn() returns")
    return reliability


def _accuracies(blocks: Blocks, annotators: tuple[str, ...], slots: int, settings: PreferenceSettings) -> Reliability:
    """One-coin accuracies. Annotators whose accuracy is not identified have the others' mean, or 0.7."""
    census = take_census(blocks, annotators, slots)
    pins = dict(settings.pinned) | dict.fromkeys(settings.gold, 1.0)
    known = np.zeros(len(annotators), dtype=bool)
    given = indices(annotators, pins)
    known[given] = True
    missing = census.not_identified(settings.min_votes, known)
    free = np.array([name not in missing for name in annotators]) & ~known
    eta, passes = np.full(len(annotators), np.nan), 0
    if free.any():
        votes = sample(blocks, census, free | known, _SAMPLE)
        _, pair = np.unique(votes.pair_keys(slots), return_inverse=True)
        fixed = np.full(len(annotators), np.nan)
        fixed[given] = list(pins.values())
        fit = dawid_skene(pair, votes.annotator, votes.share, weight=votes.weight, pinned=fixed)
        eta[: len(fit.found)], passes = fit.found, fit.passes
    eta[~free] = np.nan
    mean = float(np.average(eta[free], weights=census.votes[free])) if free.any() else 0.7
    used = np.where(np.isnan(eta), mean, eta)
    used[given] = list(pins.values())
    return Reliability(annotators, eta, used, census.votes, census.shared, missing, passes)
