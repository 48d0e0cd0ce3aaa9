"""Groups of annotators with different preferences, scored by the worst-off group (MaxMin-RLHF, arXiv 2402.08925).

A mixture of Bradley-Terry models over annotators: every annotator belongs to one of U groups, and each group has its
own strengths for every prompt. A response's score is the lowest that any group gives it.
"""

from dataclasses import dataclass

import numpy as np

from storage.arrays import Bools, Floats, Ints
from tasks.labeling.aggregation.arrays import sigmoid
from tasks.labeling.aggregation.bradley_terry import Strengths, bradley_terry
from tasks.labeling.aggregation.votes import Votes

_TOLERANCE = 1e-6
_PASSES = 500


@dataclass(frozen=True)
class WorstOff:
    """score[p, k]: the lowest strength of response k over the groups; group[p, k]: the group that gives it."""

    score: Floats  # [P, K]
    group: Ints  # [P, K]
    strengths: tuple[Strengths, ...]

    def gaps(self, prompt: Ints, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """Score gap and its standard error, with independent groups and the lowest group treated as known."""
        variance = np.zeros(len(prompt))
        group_first, group_second = self.group[prompt, first], self.group[prompt, second]
        for u, fit in enumerate(self.strengths):
            cov = fit.covariance
            a, b = group_first == u, group_second == u
            variance += np.where(a, cov[prompt, first, first], 0) + np.where(b, cov[prompt, second, second], 0)
            variance -= np.where(a & b, 2 * cov[prompt, first, second], 0)
        return self.score[prompt, first] - self.score[prompt, second], np.sqrt(variance)


def annotator_groups(
    votes: Votes, shape: tuple[int, int], annotators: int, groups: int, *, prior_variance: float, soft: bool = True
) -> tuple[Floats, Floats]:
    """Responsibilities [A, U] and group shares [U] by expectation-maximisation, with `soft` or hard assignments.

    The groups start from the annotators that agree least with one another. Groups are numbered by their first
    annotator. An annotator without votes belongs to every group by its share.
    """
    lean = _agreement(votes, shape, annotators)
    seeds = [int(np.argmin(lean.sum(axis=1)))]
    while len(seeds) < groups:
        seeds.append(int(np.argmin(lean[:, seeds].max(axis=1))))
    resp = np.eye(groups)[lean[:, seeds].argmax(axis=1)] * 0.8 + 0.2 / groups
    share = resp.mean(axis=0)
    for _ in range(_PASSES):
        likelihood = np.zeros((annotators, groups))
        for u in range(groups):
            theta = bradley_terry(
                votes.wins(shape, weight=votes.weight * resp[votes.annotator, u]), prior_variance=prior_variance
            ).theta
            p = sigmoid(theta[votes.prompt, votes.first] - theta[votes.prompt, votes.second])
            # These strengths include the annotator's own votes, which favours the group that it is in already.
            score = votes.share * np.log(p) + (1 - votes.share) * np.log1p(-p)
            likelihood[:, u] = np.bincount(votes.annotator, votes.weight * score, annotators)
        with np.errstate(divide="ignore"):
            level = likelihood + np.log(share)
        new = np.exp(level - level.max(axis=1, keepdims=True))
        new = new / new.sum(axis=1, keepdims=True) if soft else np.eye(groups)[level.argmax(axis=1)]
        moved = np.abs(new - resp).max()
        resp, share = new, new.mean(axis=0)
        if moved < _TOLERANCE:
            break
    member = resp.argmax(axis=1)
    members = [np.flatnonzero(member == u) for u in range(groups)]
    order = sorted(range(groups), key=lambda u: int(members[u][0]) if len(members[u]) else annotators)
    return resp[:, order], share[order]


def worst_off(
    votes: Votes, shape: tuple[int, int], responsibilities: Floats, *, prior_variance: float, mask: Bools | None = None
) -> WorstOff:
    """Strengths of each group, and the lowest of them for each response (pointwise minimum)."""
    fits = tuple(
        bradley_terry(
            votes.wins(shape, weight=votes.weight * responsibilities[votes.annotator, u]),
            prior_variance=prior_variance,
            mask=mask,
        )
        for u in range(responsibilities.shape[1])
    )
    theta = np.stack([fit.theta for fit in fits])
    score, group = pointwise_minimum(theta)
    return WorstOff(score, group, fits)


def pointwise_minimum(theta: Floats) -> tuple[Floats, Ints]:
    """Lowest score over groups, [U, ...] -> [...], and the group that gives it."""
    return theta.min(axis=0), np.where(np.isnan(theta), np.inf, theta).argmin(axis=0)


def _agreement(votes: Votes, shape: tuple[int, int], annotators: int) -> Floats:
    """[A, A]: mean product of two annotators' votes (-1 .. 1) on the pairs that both voted on; 1 on the diagonal."""
    _, pair = np.unique(votes.pair_keys(shape[1]), return_inverse=True)
    size = (int(pair.max(initial=-1)) + 1, annotators)
    cell = pair * annotators + votes.annotator
    cast = np.bincount(cell, minlength=size[0] * size[1]).reshape(size)
    lean = np.bincount(cell, 2 * votes.share - 1, size[0] * size[1]).reshape(size) / np.maximum(cast, 1)
    voted = (cast > 0).astype(np.float64)
    result: Floats = (lean.T @ lean) / np.maximum(voted.T @ voted, 1)
    result[np.diag_indices(annotators)] = 1.0
    return result
