"""Which responses of a prompt make pairs: all, the best with the worst, or the two ends of a tournament.

The tournament is INPO's (arXiv 2407.00617): a first round in pairs; then winners play winners and losers play losers.
The overall winner is chosen and the overall loser is rejected, if the winner also beats the loser. Eight responses need
11 comparisons. Ties go to the first. Byes, for rounds with an odd number, are ours. The panel compares all pairs here:
the tournament selects two responses, and does not save comparisons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.arrays import Bools, Floats, Ints
from tasks.panel.responses import Responses

ALL = slice(None)


@dataclass(frozen=True)
class Pairs:
    """Unordered pairs of responses, all [n]: the prompt's row in Responses.rows, counted from the first requested
    prompt, and two slots, first < second."""

    prompt: Ints
    first: Ints
    second: Ints
    dropped: NDArray[np.str_]  # why the pair is left out: "truncated", "identical", "tournament"; "" if it is kept


def usable_responses(responses: Responses, drop_truncated: bool, prompts: slice = ALL) -> Bools:
    """[P, K]: responses of these prompts that may be in a pair."""
    rows = responses.rows[prompts]
    present = rows >= 0
    return present & responses.ended[rows] if drop_truncated else present


def response_pairs(responses: Responses, *, drop_truncated: bool, prompts: slice = ALL) -> Pairs:
    """Every pair of responses of each of these prompts; `dropped` marks pairs that cannot become preferences."""
    i, j = np.triu_indices(responses.rows.shape[1], 1)
    present = responses.rows[prompts] >= 0
    prompt, pair = np.nonzero(present[:, i] & present[:, j])
    first, second = i[pair], j[pair]
    usable, twins = usable_responses(responses, drop_truncated, prompts), responses.twins[prompts]
    truncated = ~(usable[prompt, first] & usable[prompt, second])
    identical = twins[prompt, first] == twins[prompt, second]
    return Pairs(prompt, first, second, np.select([truncated, identical], ["truncated", "identical"], ""))


def best_worst(pairs: Pairs, theta: Floats) -> Pairs:
    """One pair a prompt: the strongest item (the first of equals) against the weakest (the last of equals).

    A prompt with fewer than two items keeps its first pair, which has the reason why it is dropped.
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
    """One pair a prompt, the winner and the loser of its tournament, and whether its first slot won, [n].

    wins [P, K, K]: votes for i over j. items [P, K]: the responses that play. A pair is dropped when its winner did not
    get more votes than its loser. A prompt with fewer than two items keeps its first pair, as in `best_worst`.
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
    """(overall winner, overall loser) of at least two players. `beats(i, j)`: i is not worse than j.

    A player without an opponent in the first round joins both the winners and the losers; in later rounds it advances.
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
