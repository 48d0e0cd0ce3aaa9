"""The penalty that takes length out of implicit rewards: its search, and what it does to scores and votes."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.arrays import Floats
from tasks.labeling.length_penalty import GRID, level_penalty
from tasks.labeling.settings import LabelSpec
from tasks.labeling.stage import run
from tests.conftest import MakePolicy
from tests.panel.conftest import World


def apart(scores: Floats, characters: Floats, alpha: float) -> float:
    gaps = []
    for score, length in zip(scores, characters, strict=True):
        value = [s - alpha * c for s, c in zip(score, length, strict=True)]
        gaps.append(length[int(np.argmax(value))] - length[int(np.argmin(value))])
    return abs(float(np.mean(gaps)))


def test_the_search_ends_where_the_difference_first_grows() -> None:
    rng = np.random.default_rng(0)
    characters = rng.integers(5, 200, (60, 8)).astype(float)
    scores = rng.normal(0, 3, (60, 8)) + 0.05 * characters  # long ones are liked for their length
    penalty = level_penalty(scores, characters)
    differences = [apart(scores, characters, alpha) for alpha in GRID]
    grown = next(i for i in range(1, len(GRID)) if differences[i] > min(differences[:i]))
    assert penalty == GRID[int(np.argmin(differences[:grown]))]
    assert apart(scores, characters, penalty) < 0.3 * apart(scores, characters, 0.0)
    assert 0.02 < penalty < 0.08


def test_scores_that_care_little_for_length_get_no_penalty_and_one_score_is_no_comparison() -> None:
    assert level_penalty(np.array([[2.0, 1.0]]), np.array([[7.0, 7.0]])) == 0.0
    assert level_penalty(np.array([[2.0, np.nan]]), np.array([[70.0, 7.0]])) == 0.0
    assert level_penalty(np.array([[np.nan, 2.0, 1.0]]), np.array([[1.0, 8.0, 8.0]])) == 0.0


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_a_stage_takes_it_off_scores_and_votes(world: World, make_policy: MakePolicy, margin: float) -> None:
    policies = {"policy": make_policy(seed=1), "previous": make_policy(seed=0)}
    texts = {f"p{i}": ["a short reply", "x" * (5 + 3 * i), "the sum of numbers " * (i + 1)] for i in range(6)}
    settings = {"kind": "implicit_reward", "policy": "policy", "reference": "previous", "device": "cpu"}
    kept = {}
    for out, penalty in (("plain", 0.0), ("level", "level")):
        spec = world.spec(
            texts, {"it": settings | {"length_penalty": penalty, "tie_margin": margin}}, out=out, cut=[("p0", 2)]
        )
        manifest = run(LabelSpec(**{**dict(spec), "policies": policies}))
        kept[out] = {name: pq.read_table(spec.folder / f"{name}.parquet").to_pylist() for name in ("scores", "votes")}
    alpha = manifest.summary["learnt"]["length_penalties"]["it"]
    plain = [row["score"] for row in kept["plain"]["scores"]]
    lengths = [len(texts[row["prompt_id"]][row["response_index"]]) for row in kept["plain"]["scores"]]
    table = np.array(plain).reshape(6, 3)
    table[0, 2] = np.nan  # cut off: not in any pair
    assert alpha == level_penalty(table, np.array(lengths, dtype=float).reshape(6, 3)) > 0
    scored = {(row["prompt_id"], row["response_index"]): row["score"] for row in kept["level"]["scores"]}
    assert list(scored.values()) == pytest.approx([s - alpha * n for s, n in zip(plain, lengths, strict=True)])
    for row in kept["level"]["votes"]:
        gap = scored[row["prompt_id"], row["index_a"]] - scored[row["prompt_id"], row["index_b"]]
        assert row["outcome"] == ("tie" if abs(gap) <= margin else "a" if gap > 0 else "b")
