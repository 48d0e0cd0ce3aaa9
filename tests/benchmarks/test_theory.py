"""The theory benchmark: its solver against closed forms, its goals against their definitions, its cases."""

import numpy as np
import pytest

from benchmarks.tabular.solve import Labelled, Policies, from_tables, hard, minimise
from benchmarks.tabular.world import make_world, softmax
from benchmarks.theory import goals, population, sampled
from conf.compose import group_options
from storage.arrays import Floats
from tasks.training.objectives.dpo import Dpo
from tasks.training.objectives.ipo import Ipo
from tasks.training.objectives.irepo import Irepo


def test_one_pair_is_solved_by_hand() -> None:
    start = Policies(np.zeros((1, 2)), np.zeros((1, 2)))
    zero = np.zeros(1, dtype=np.int64)
    one = Labelled(zero, zero, np.array([1]), np.array([1.2]), np.array([3.0]))
    for settings, gap in (
        (Irepo(beta=0.5), 2.4),
        (Dpo(beta=0.5, labels="soft"), 2.4),
        (Ipo(beta=0.5), 1.0),
    ):
        logits = minimise(settings, one, start)
        assert logits[0, 0] - logits[0, 1] == pytest.approx(gap, abs=1e-6)


def test_the_objective_reaches_the_closed_form() -> None:
    assert sampled.solved_exactly() < 1e-6


def test_hard_labels_and_tables() -> None:
    wins = np.zeros((1, 3, 3))
    wins[0, 0, 1], wins[0, 1, 0], wins[0, 2, 1] = 2, 1, 4
    data = hard(wins)
    assert list(zip(data.chosen, data.rejected, data.weight, strict=True)) == [(0, 1, 2), (1, 0, 1), (2, 1, 4)]
    target = np.array([[[0, 1.5, 0], [-1.5, 0, 0], [0, 0, 0]]])
    (label,) = from_tables(target, (np.abs(target) > 0).astype(float)).label
    assert label == 1.5


def test_goals_are_what_they_say() -> None:
    world = make_world(np.random.default_rng(5), 3, 6)
    p = population.preference(world)
    nash = goals.regularised_nash(world.initial, p, 0.3)
    again = world.initial + goals.against(p, softmax(nash)) / 0.3
    np.testing.assert_allclose(softmax(nash), softmax(again), atol=1e-10)
    # f-DPO's optimum beats policies nearby, for the divergence sum pi_0 f(pi / pi_0) with f' = -1/u (forward KL).
    logits = goals.other_divergence(world.initial, world.reward, 1.0, lambda u: -np.log(-u))
    initial, best = softmax(world.initial), np.exp(logits)
    np.testing.assert_allclose(best.sum(axis=1), 1, atol=1e-9)

    def worth(policy: Floats) -> Floats:
        total: Floats = (policy * world.reward + initial * np.log(policy / initial)).sum(axis=1)
        return total

    rng = np.random.default_rng(6)
    for _ in range(50):
        assert (worth(softmax(np.log(best) + rng.normal(0, 0.1, best.shape))) < worth(best)).all()
    tokens = goals.per_token(world.initial, world.reward, 2.0, population.lengths(world))
    ratio = (tokens - np.log(softmax(world.initial))) / population.lengths(world)
    np.testing.assert_allclose(ratio[:, 0] - ratio[:, 1], (world.reward[:, 0] - world.reward[:, 1]) / 2, atol=1e-9)


def test_every_exact_case_reaches_its_goal_in_a_small_world() -> None:
    rows = population.rows(make_world(np.random.default_rng(7), 4, 5))
    assert {row.method: row.own for row in rows if row.exact and not (row.own or 0) <= population.NEAR} == {}
    by_name = {row.method: row for row in rows}
    assert by_name["irepo, 4 rounds"].optimum > 0.2
    assert by_name["ipo, tau=1"].optimum > by_name["ipo, tau=.25"].optimum > 0.01
    assert by_name["lcpo, 3 of 9 reverse votes"].optimum < by_name["dpo, 3 of 9 reverse votes"].optimum


def test_every_word_has_a_case_or_a_reason() -> None:
    explained = {case.method.split(",")[0].split(" ")[0] for case in population.CASES} | set(population.ABSENT)
    assert explained == set(group_options("objective"))


def test_soft_vote_dpo_with_the_same_prior_is_pooled_irepo() -> None:
    ours, theirs, apart = sampled.equal_to_soft_dpo(1, 5)
    assert abs(ours - theirs) < 0.01
    assert apart < 1e-3


def test_reliability_undoes_adversaries() -> None:
    panel = [1.0] * 6 + [0.0] * 3
    far, near = (
        sampled.by_rounds(sampled.Setting(method, panel, rounds=2), 1).optimum[-1].mean
        for method in (sampled.irepo, sampled.irepo_reliable)
    )
    assert near < 0.6 * far
