"""Which responses of a prompt make pairs: all, the best with the worst, or what a tournament among them leaves.

The tournament is INPO's (arXiv 2407.00617): a first round in pairs; then winners play winners and losers play losers.
The winner of all is chosen, the loser of all rejected, if the one also beats the other; 11 comparisons for eight
responses. Ties go to the first. Byes, where a round has an odd number, are ours. Here the panel has compared all pairs
anyway: the bracket says which two are taken, it does not save comparisons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from storage.arrays import Bools, Floats, Ints
from tasks.panel.responses import Responses

ALL = slice(None)


@dataclass(frozen=True)
class Pairs:
    """Unordered pairs of responses of one prompt: its row in Responses.rows, counted from the first prompt asked
    for, and two slots, first < second. All [n]."""

    prompt: Ints
    first: Ints
    second: Ints
    dropped: np.ndarray  # why the pair takes no part: "truncated", "identical", "tournament"; "" where it does


def usable_responses(candidates: Responses, drop_truncated: bool, prompts: slice = ALL) -> Bools:
    """[P, K]: responses of these prompts that may be in a pair."""
    rows = candidates.rows[prompts]
    present = rows >= 0
    return present & candidates.ended[rows] if drop_truncated else present


def candidate_pairs(candidates: Responses, *, drop_truncated: bool, prompts: slice = ALL) -> Pairs:
    """Every pair of responses of each of these prompts, with those that can be no preference marked."""
    i, j = np.triu_indices(candidates.rows.shape[1], 1)
    present = candidates.rows[prompts] >= 0
    prompt, pair = np.nonzero(present[:, i] & present[:, j])
    first, second = i[pair], j[pair]
    usable, twins = usable_responses(candidates, drop_truncated, prompts), candidates.twins[prompts]
    truncated = ~(usable[prompt, first] & usable[prompt, second])
    identical = twins[prompt, first] == twins[prompt, second]
    return Pairs(prompt, first, second, np.select([truncated, identical], ["truncated", "identical"], ""))


def best_worst(pairs: Pairs, theta: Floats) -> Pairs:
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


def tournament(pairs: Pairs, wins: Floats, items: Bools) -> tuple[Pairs, Bools]:
    """One pair a prompt, the first and the last of its tournament, and whether its first slot won, [n].

    wins [P, K, K]: votes for i over j. items [P, K]: who plays. A pair whose winner did not get more of their own votes
    is dropped. A prompt with fewer than two items keeps its first pair, as `best_worst` does.
    """
    prompts, start = np.unique(pairs.prompt, return_index=True)
    first, second = pairs.first[start].copy(), pairs.second[start].copy()
    dropped = pairs.dropped[start].astype("<U12")
    first_won = np.ones(len(prompts), dtype=bool)
    for n, prompt in enumerate(prompts.tolist()):
        players = np.flatnonzero(items[prompt]).tolist()
        if len(players) < 2:
            continue
        won = wins[prompt]
        best, worst = bracket(players, lambda i, j, won=won: bool(won[i, j] >= won[j, i]))  # type: ignore[misc]
        first[n], second[n] = min(best, worst), max(best, worst)
        first_won[n] = best < worst
        dropped[n] = "" if best != worst and won[best, worst] > won[worst, best] else "tournament"
    return Pairs(prompts, first, second, dropped), first_won


def bracket(players: Sequence[int], beats: Callable[[int, int], bool]) -> tuple[int, int]:
    """(winner of all winners, loser of all losers) of two players or more; `beats(i, j)`: i is not worse than j.

    Who has nobody to play in the first round is among the winners and among the losers; later it is simply through.
    """
    played = list(zip(players[::2], players[1::2], strict=False))
    alone = list(players[len(played) * 2 :])
    winners = [i if beats(i, j) else j for i, j in played] + alone
    losers = [j if beats(i, j) else i for i, j in played] + alone
    while len(winners) > 1:
        rest = winners[len(winners) // 2 * 2 :]
        winners = [i if beats(i, j) else j for i, j in zip(winners[::2], winners[1::2], strict=False)] + rest
    while len(losers) > 1:
        rest = losers[len(losers) // 2 * 2 :]
        losers = [j if beats(i, j) else i for i, j in zip(losers[::2], losers[1::2], strict=False)] + rest
    return winners[0], losers[0]
