"""Which two responses a tournament takes: against brackets played by hand, and its votes and refusals."""

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.labeling.pairing import Pairs, bracket, tournament
from tasks.labeling.stage import run
from tests.panel.conftest import World


def test_eight_players_take_eleven_comparisons_with_the_last_check() -> None:
    comparisons = []
    strength = [3, 7, 1, 5, 6, 0, 2, 4]

    def beats(i: int, j: int) -> bool:
        comparisons.append((i, j))
        return strength[i] >= strength[j]

    assert bracket(range(8), beats) == (1, 5)
    # Each comparison of the first round is looked at twice here: for who wins and for who loses.
    assert len({frozenset(pair) for pair in comparisons}) == 10


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7, 8])
def test_where_strengths_decide_the_best_and_the_worst_are_found(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(20):
        strength = rng.permutation(count)
        ends = bracket(range(count), lambda i, j: strength[i] >= strength[j])  # noqa: B023
        assert ends == (int(strength.argmax()), int(strength.argmin()))


def pairs_of(count: int) -> Pairs:
    i, j = np.triu_indices(count, 1)
    return Pairs(np.zeros(len(i), dtype=np.int64), i, j, np.full(len(i), ""))


def test_ties_go_to_the_first_and_a_winner_who_does_not_beat_the_loser_is_dropped() -> None:
    wins = np.zeros((1, 4, 4))  # nobody has a vote: 0 wins all, 3 loses all, and 0 does not beat 3
    chosen, first_won = tournament(pairs_of(4), wins, np.ones((1, 4), dtype=bool))
    assert (chosen.first[0], chosen.second[0], chosen.dropped[0], bool(first_won[0])) == (0, 3, "tournament", True)
    wins[0, 3, 0] = 1
    assert tournament(pairs_of(4), wins, np.ones((1, 4), dtype=bool))[0].dropped[0] == "tournament"
    wins[0, 0, 3] = 2
    assert tournament(pairs_of(4), wins, np.ones((1, 4), dtype=bool))[0].dropped[0] == ""


def test_a_circle_is_won_by_the_bracket() -> None:
    """0 > 1, 2 > 3, 2 > 0, 3 > 1 ... and 1 > 2: strengths could not say who is best."""
    wins = np.zeros((1, 4, 4))
    for winner, loser in ((1, 0), (2, 3), (1, 2), (0, 3), (3, 1)):
        wins[0, winner, loser] = 1
    chosen, first_won = tournament(pairs_of(4), wins, np.ones((1, 4), dtype=bool))
    # Winners 1 and 2, of whom 1; losers 0 and 3, of whom 3; but 3 beats 1.
    assert (chosen.first[0], chosen.second[0], chosen.dropped[0], bool(first_won[0])) == (1, 3, "tournament", True)


LENGTH = {"kind": "function", "function": "voters:length"}


def test_the_stage_takes_one_pair_a_prompt(world: World) -> None:
    texts = {"p": ["bb", "aaaa", "c", "dddd dd"], "q": ["x", "x", "x", "x"], "r": ["gg", "hh", "ii", "jj"]}
    manifest = run(world.spec(texts, {"one": LENGTH}, preferences={"pairs": "tournament"}))
    rows = pq.read_table(world.folder / "label" / "preferences.parquet").to_pylist()
    assert [(row["prompt_id"], row["chosen_index"], row["rejected_index"]) for row in rows] == [("p", 3, 2)]
    assert manifest.summary["dropped"] == {"identical": 1, "tournament": 1}


def test_every_order_of_four_lengths(world: World) -> None:
    texts = {
        "".join(map(str, order)): ["x" * (size + 1) for size in order] for order in itertools.permutations(range(4))
    }
    run(world.spec(texts, {"one": LENGTH}, preferences={"pairs": "tournament"}))
    for row in pq.read_table(world.folder / "label" / "preferences.parquet").to_pylist():
        order = [int(size) for size in row["prompt_id"]]
        assert (row["chosen_index"], row["rejected_index"]) == (order.index(3), order.index(0))
