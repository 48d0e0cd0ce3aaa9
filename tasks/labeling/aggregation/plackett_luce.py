"""Plackett-Luce strengths from rankings (Plackett 1975; Luce 1959; Hunter 2004), by Newton.

A ranking r of a set of items is a sequence of choices: P(r) = prod_s exp(theta_{r_s}) / sum_{u >= s} exp(theta_{r_u}).
For two items it is Bradley-Terry, so single votes can be fitted together with rankings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from storage.arrays import Bools, Floats, Ints
from tasks.labeling.aggregation.bradley_terry import (
    Strengths,
    check_connected,
    strengths_of,
    win_derivatives,
    win_posterior,
)
from tasks.labeling.aggregation.newton import maximise
from tasks.labeling.aggregation.votes import Votes

_TOLERANCE = 1e-18


@dataclass(frozen=True)
class Rankings:
    """Rankings of some or all items of a prompt, without ties."""

    prompt: Ints  # [R]
    order: Ints  # [R, K], slots, best first, -1 after the last ranked one
    stages: Ints  # [R]: how many leading places are known; the order of the rest is not
    weight: Floats  # [R]

    def take(self, chosen: Bools) -> "Rankings":
        """The rankings at `chosen`."""
        return Rankings(self.prompt[chosen], self.order[chosen], self.stages[chosen], self.weight[chosen])


def rankings(order: ArrayLike, stages: ArrayLike | None = None) -> Rankings:
    """Equally many rankings for each prompt: order int [P, R, K] as in Rankings.order, stages [P, R]."""
    rows = np.asarray(order)
    if rows.ndim != 3:
        raise ValueError(f"order must be [prompts, rankings, items], not {rows.shape}")
    flat = rows.reshape(-1, rows.shape[2])
    decided = (flat >= 0).sum(axis=1) if stages is None else np.asarray(stages).reshape(-1)
    return Rankings(np.repeat(np.arange(len(rows)), rows.shape[1]), flat, decided, np.ones(len(flat)))


def plackett_luce(
    ranked: Rankings,
    shape: tuple[int, int],
    *,
    wins: Floats | None = None,
    prior_variance: float | None = None,
    pseudo_wins: float = 0.0,
    mask: ArrayLike | None = None,
) -> Strengths:
    """Maximise the Plackett-Luce log-posterior for shape (P, K) prompts and items.

    `wins` [P, K, K]: single votes fitted together with the rankings. `prior_variance` v: strengths ~ N(0, v).
    `pseudo_wins` a: added to the wins of every pair, both ways. `mask` [P, K]: which items are present.

    Raises ValueError for a ranking with a repeated or absent item, and, without any regularisation, when the maximum is
    at infinity (as for bradley_terry).
    """
    present = np.ones(shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    chosen, remaining = _choices(ranked, present)
    off = ~np.eye(shape[1], dtype=bool)
    counts = np.zeros((*shape, shape[1])) if wins is None else wins
    counts = np.where(present[:, :, None] & present[:, None, :] & off, counts + pseudo_wins, 0.0)
    if prior_variance is None:
        # A chosen item beats every item that remained when it was chosen.
        beaten = np.einsum("rsi,rsj->rij", chosen, remaining) * off
        implied = counts.copy()
        np.add.at(implied, ranked.prompt, beaten)
        check_connected(implied, present)
    precision = 0.0 if prior_variance is None else 1 / prior_variance
    n = np.maximum(present.sum(axis=1), 1)[:, None, None]
    fill = ~present[:, :, None] * np.eye(shape[1])
    if prior_variance is None:
        fill = fill + (present[:, :, None] & present[:, None, :]) / n
    weight, weights = ranked.weight, ranked.weight[:, None, None]
    at = np.where(remaining, 0.0, -np.inf)
    picked = chosen.sum(axis=1) * ranked.weight[:, None]
    active = np.any(chosen, axis=2, keepdims=False)  # stages that are choices

    def value(theta: Floats) -> Floats:
        strengths = theta[ranked.prompt]
        total = _log_sum(strengths[:, None, :] + at, active).sum(axis=1)
        score = (picked * strengths).sum(axis=1) - weight * total
        return win_posterior(theta, counts, precision, 0.0) + np.bincount(ranked.prompt, score, shape[0])

    def derivatives(theta: Floats) -> tuple[Floats, Floats]:
        gradient, curvature = win_derivatives(theta, counts, precision, 0.0, present)
        utility = theta[ranked.prompt][:, None, :] + at
        p = np.exp(utility - _log_sum(utility, active)[:, :, None]) * active[:, :, None]
        np.add.at(gradient, ranked.prompt, picked - weights[:, 0] * p.sum(axis=1))
        spread = p.sum(axis=1)[:, :, None] * np.eye(shape[1]) - np.einsum("rsi,rsj->rij", p, p)
        np.add.at(curvature, ranked.prompt, weights * spread)
        return gradient, curvature + fill

    heaviest = counts.max(axis=(1, 2), initial=0.0) + np.bincount(ranked.prompt, weight, shape[0])
    theta, inverse = maximise(value, derivatives, np.zeros(shape), _TOLERANCE * (1 + heaviest))
    if prior_variance is None:
        theta = np.where(present, theta - (theta * present).sum(axis=1, keepdims=True) / n[:, :, 0], 0.0)
    return strengths_of(theta, inverse - fill, present)


def votes_to_rankings(votes: Votes, slots: int) -> tuple[Rankings, Bools]:
    """The rankings that `votes` come from, and which votes belong to one of them, bool [n].

    Ranked votes of one annotator and prompt are one ranking when each of its m items has a vote against every other,
    and the numbers of wins are 0 .. m-1. Votes of rankings with ties or gaps belong to none.
    """
    numbers = np.flatnonzero(votes.ranked)
    part = votes.take(numbers)
    group, which = np.unique(part.prompt * (part.annotator.max(initial=0) + 1) + part.annotator, return_inverse=True)
    shape = (len(group), slots, slots)
    pair = np.ravel_multi_index((which, part.first, part.second), shape)
    won, cast = (np.bincount(pair, x, int(np.prod(shape))).reshape(shape) for x in (part.share, np.ones(len(part))))
    beats = np.divide(won, cast, out=np.zeros(shape), where=cast > 0)
    beats = beats + np.where(cast > 0, 1 - beats, 0).transpose(0, 2, 1)
    compared = cast + cast.transpose(0, 2, 1) > 0
    there = compared.any(axis=2)
    items, score = there.sum(axis=1), beats.sum(axis=2)
    order = np.argsort(np.where(there, -score, np.inf), axis=1, kind="stable")
    place = np.arange(slots)
    expected = np.where(place < items[:, None], items[:, None] - 1 - place, 0)
    clean = (np.take_along_axis(score, order, axis=1) == expected).all(axis=1)
    clean &= compared.sum(axis=(1, 2)) == items * (items - 1)
    first = np.unique(which, return_index=True)[1]
    rows = np.where(place < items[:, None], order, -1)
    complete = Rankings(part.prompt[first], rows, items, part.weight[first]).take(clean)
    explained = np.zeros(len(votes), dtype=bool)
    explained[numbers[clean[which]]] = True
    return complete, explained


def _choices(ranked: Rankings, present: Bools) -> tuple[Bools, Bools]:
    """For each ranking and stage, the chosen item and those that remained: bool [R, K, K] (ranking, stage, item)."""
    size = present.shape[1]
    listed = ranked.order >= 0
    where = (ranked.order[:, :, None] == np.arange(size)) & listed[:, :, None]
    named = where.sum(axis=1)
    if (named > 1).any() or (ranked.order >= size).any() or (named.astype(bool) & ~present[ranked.prompt]).any():
        raise ValueError("a ranking has a repeated or absent item")
    if (listed[:, 1:] & ~listed[:, :-1]).any():
        raise ValueError("a ranking has a gap; -1 may only follow the last ranked item")
    # The last item of a ranking is not a choice, because it is the only one left.
    stage = np.arange(ranked.order.shape[1])
    decided = (stage < np.minimum(ranked.stages, listed.sum(axis=1) - 1)[:, None])[:, :, None]
    remaining = np.cumsum(where[:, ::-1], axis=1)[:, ::-1].astype(bool)
    return where & decided, remaining & decided


def _log_sum(utility: Floats, active: Bools) -> Floats:
    """log sum exp over the last axis where `active`, else 0."""
    top = np.where(active, utility.max(axis=-1), 0.0)
    with np.errstate(divide="ignore"):
        result: Floats = np.where(active, top + np.log(np.exp(utility - top[..., None]).sum(axis=-1)), 0.0)
    return result
