"""Estimates annotator reliability by expectation-maximisation, and reports when the votes cannot identify it.

Model (Crowd-BT, Chen et al. 2013; LCPO, arXiv 2509.24159, has the same posterior): a vote of annotator k is honest
with probability eta_k and reversed otherwise. Honest votes follow Bradley-Terry strengths with a ridge prior. The model
assumes one common truth: an expert who is right against the majority looks unreliable, unless its honesty is pinned or
its votes are gold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from storage.arrays import Bools, Floats, Ints
from tasks.labeling.aggregation.arrays import sigmoid
from tasks.labeling.aggregation.bradley_terry import win_derivatives, win_posterior
from tasks.labeling.aggregation.newton import maximise
from tasks.labeling.aggregation.vote_counts import Blocks, count_votes, indices, sample
from tasks.labeling.aggregation.votes import Votes
from tasks.labeling.summary import AnnotatorReliability, Estimates

_START = 0.9
_PRIOR = (4.0, 1.0)  # Beta prior of the honesties (em)
_BOUNDS = (0.5, 0.999)  # of the honesties (lcpo): an honesty of 1 could never change again
_HONEST, _COIN = 0.9, 0.1  # above _HONEST: honest; closer than _COIN to one half: a coin flip
_TOLERANCE = 1e-4  # change of an honesty in a pass
_NEAR = 1e-6  # predicted rise of the log-posterior at which the strengths of one pass are good enough
_PASSES = 1000
_SAMPLE = 20_000  # votes of an annotator that its honesty is estimated from


@dataclass(frozen=True)
class Reliability:
    """Estimated reliability of annotators. All arrays [A]."""

    annotators: tuple[str, ...]
    eta: Floats  # estimated probability of an honest vote; NaN when it is not identified
    used: Floats  # the honesty that votes count with: 1 in full, 0.5 not at all, 0 reversed
    votes: Ints  # decided votes
    shared: Ints  # decided votes on pairs that another annotator decided too
    not_identified: dict[str, str] = field(default_factory=dict)  # annotator -> why; their votes count in full
    passes: int = 0

    def summary(self) -> Estimates:
        """For the manifest of a label stage."""
        rows = zip(self.annotators, self.eta, self.used, self.votes, self.shared, strict=True)
        annotators = {
            name: AnnotatorReliability(
                eta=None if np.isnan(eta) else float(eta), used=float(used), votes=int(votes), shared=int(shared)
            )
            for name, eta, used, votes, shared in rows
        }
        return Estimates(annotators=annotators, not_identified=self.not_identified, passes=self.passes)


def estimate_reliability(
    blocks: Blocks,
    annotators: tuple[str, ...],
    slots: int,
    *,
    prior_variance: float,
    min_votes: int,
    rule: Literal["em", "lcpo"] = "em",
    pinned: Mapping[str, float] | None = None,
    gold: tuple[str, ...] = (),
) -> Reliability:
    """Estimate each annotator's honesty from votes on prompts of up to `slots` responses.

    `rule` "em": Beta(4, 1) prior, then snapped: above 0.9 counts as 1, below 0.1 as 0, and within 0.1 of one half as
    0.5. Without snapping, strengths of an honest panel are too large. "lcpo": no prior, between 0.5 and 0.999, not
    snapped. All votes are available at once, so LCPO's moving average over batches is not needed. `pinned`: given
    honesties. `gold`: annotators whose votes are known to be right: on pairs that they decide, another annotator's vote
    is honest if it agrees.

    Annotators in `VoteCounts.not_identified` are left out, and their votes count in full. Raises ValueError for pinned
    or gold annotators without votes.
    """
    pins = dict(pinned or {})
    known = np.zeros(len(annotators), dtype=bool)
    known[indices(annotators, pins)] = True
    known[indices(annotators, gold)] = True
    counts = count_votes(blocks, annotators, slots)
    missing = counts.not_identified(min_votes, known)
    used = np.ones(len(annotators))
    used[indices(annotators, pins)] = list(pins.values())
    identified = np.array([name not in missing for name in annotators], dtype=bool)
    eta, passes = np.where(identified, used, np.nan), 0
    free = identified & ~known
    if free.any():
        votes = sample(blocks, counts, identified, _SAMPLE)
        # Known annotators are the measure for those connected with them; elsewhere the majority counts as honest.
        guided = np.isin(counts.component, counts.component[known])
        start = np.where(known, used, np.where(guided, 0.5, _START))
        fitted, passes = _fit(votes, slots, start, free, indices(annotators, gold), prior_variance, rule)
        eta[free] = fitted[free]
        used[free] = snap(fitted[free]) if rule == "em" else fitted[free]
    return Reliability(annotators, eta, used, counts.votes, counts.shared, missing, passes)


def label_posterior(eta: Floats, p: Floats) -> Floats:
    """Probability that a label is right: eta p / (eta p + (1 - eta)(1 - p)), LCPO's E step.

    `p` is the model's probability of the label, for DPO sigmoid(beta d); `eta` the annotator's reliability.
    """
    right = eta * p
    result: Floats = right / (right + (1 - eta) * (1 - p))
    return result


def snap(eta: Floats) -> Floats:
    """1 above 0.9, 0 below 0.1, 0.5 within 0.1 of one half, otherwise eta."""
    coin = np.abs(eta - 0.5) < _COIN
    return np.select([eta > _HONEST, eta < 1 - _HONEST, coin], [1.0, 0.0, 0.5], eta)


def _fit(
    votes: Votes, slots: int, start: Floats, free: Bools, gold: Ints, prior_variance: float, rule: str
) -> tuple[Floats, int]:
    shape = (int(votes.prompt.max(initial=-1)) + 1, slots)
    ties = votes.take(votes.share == 0.5).wins(shape)
    decided = votes.take(votes.share != 0.5)
    for_first = decided.share > 0.5
    weight = decided.weight * np.abs(2 * decided.share - 1)
    ties += decided.wins(shape, np.full(len(decided), 0.5), decided.weight - weight)
    truth = _gold_truth(decided, slots, gold)
    size = len(start)
    cast = np.bincount(decided.annotator, weight, size)
    eta = start
    first = np.where(start[decided.annotator] < 0.5, ~for_first, for_first).astype(np.float64)
    sure = weight * np.abs(2 * start[decided.annotator] - 1)
    theta = _strengths(np.zeros(shape), decided.wins(shape, first, sure) + ties, prior_variance)
    passes, change = 0, np.inf
    while change >= _TOLERANCE and passes < _PASSES:
        passes += 1
        gap = theta[decided.prompt, decided.first] - theta[decided.prompt, decided.second]
        p = sigmoid(np.where(for_first, gap, -gap))  # probability of the vote if it is honest
        honest = label_posterior(eta[decided.annotator], p)
        honest = np.where(truth == 0, honest, (truth > 0) == for_first)
        sums = np.bincount(decided.annotator, weight * honest, size)
        with np.errstate(invalid="ignore"):
            mean = sums / cast if rule == "lcpo" else (sums + _PRIOR[0] - 1) / (cast + sum(_PRIOR) - 2)
        new = mean if rule == "em" else np.clip(mean, *_BOUNDS)
        new = np.where(free, new, start)
        if not (~free & (cast > 0)).any() and (new * cast).sum() < cast.sum() / 2:
            new = 1 - new  # no annotator is known and the labels are swapped: the majority counts as honest
        change = np.abs(new - eta).max()
        eta = new
        share = np.where(for_first, honest, 1 - honest)
        theta = _strengths(theta, decided.wins(shape, share, weight) + ties, prior_variance)
    return eta, passes


def _strengths(start: Floats, wins: Floats, prior_variance: float) -> Floats:
    """Ridge Bradley-Terry strengths, accurate enough for one pass, starting from those of the last pass."""
    present, precision = np.ones(start.shape, dtype=bool), 1 / prior_variance
    theta, _ = maximise(
        lambda theta: win_posterior(theta, wins, precision, 0.0),
        lambda theta: win_derivatives(theta, wins, precision, 0.0, present),
        start,
        _NEAR,
    )
    return theta


def _gold_truth(votes: Votes, slots: int, gold: Ints) -> Floats:
    """For each vote: 1 or -1 when gold annotators decided its pair for the first or the second, otherwise 0."""
    _, key = np.unique(votes.pair_keys(slots), return_inverse=True)
    is_gold = np.isin(votes.annotator, gold)
    sums = np.bincount(key[is_gold], np.where(votes.share[is_gold] > 0.5, 1.0, -1.0), key.max(initial=0) + 1)
    result: Floats = np.sign(sums[key])
    return result
