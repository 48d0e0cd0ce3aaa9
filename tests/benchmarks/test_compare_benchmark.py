# NEEDPATH
"""Curves over KL: exact where the points have the form, errors against a bootstrap, and what is compared."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare.__main__ import arms
from benchmarks.compare.arms import RECORD, Arm
from benchmarks.compare.curves import Points, gap, gap_at_the_end, pooled
from benchmarks.compare.methods import METHODS, STRENGTHS, VARIANTS
from benchmarks.compare.report import curves, curves_figure
from conf.compose import compose_config

PROMPTS = 200


def points(kl: list[float], slope: float, bend: float, *, noise: float = 0.0, seed: int = 0) -> Points:
    draw = np.random.default_rng(seed)
    initial = draw.normal(0.5, 1, PROMPTS)
    at = np.array(kl)
    gains = (slope * np.sqrt(at) + bend * at)[:, None]
    utility = initial + gains + noise * draw.normal(size=(len(kl), PROMPTS))
    return Points(at, utility, initial, at == at.max())


def test_points_of_the_form_are_on_their_curve() -> None:
    mine = points([0.3, 1.1, 2.0, 3.5], 1.3, -0.2)
    assert mine.misfit == pytest.approx(0, abs=1e-12)
    wanted = mine.initial.mean() + 1.3 * np.sqrt([0.5, 3.0]) - 0.2 * np.array([0.5, 3.0])
    np.testing.assert_allclose(mine.fitted(np.array([0.5, 3.0])), wanted)
    bent = Points(mine.kl, mine.utility + np.array([[0.1], [-0.1], [0.1], [-0.1]]), mine.initial, mine.last)
    assert 0.05 < bent.misfit < 0.1


def test_the_gap_is_that_of_the_curves_where_both_have_points() -> None:
    found = gap(points([0.4, 1.0, 2.5], 1.3, -0.2), points([0.9, 1.6, 3.6], 1.1, -0.2))
    assert found is not None
    assert (found.low, found.high) == (0.9, 2.5)
    assert found.mean == pytest.approx(0.2 * (np.sqrt(0.9) + np.sqrt(2.5)) / 2)
    assert found.at == pytest.approx(0.9)  # where the gap, which grows with KL, is least
    assert found.worst_gap == pytest.approx(0.2 * np.sqrt(0.9))
    assert gap(points([0.1, 0.2], 1, 0), points([0.3, 0.4], 1, 0)) is None


def test_last_rounds_are_held_against_the_curve() -> None:
    mine, other = points([0.4, 1.0, 2.5], 1.3, -0.2), points([0.9, 1.6, 2.2], 1.1, -0.2)
    found = gap_at_the_end(mine, other)
    assert found is not None
    assert found[0] == pytest.approx(0.2 * np.sqrt(2.2))
    assert gap_at_the_end(mine, points([3.0, 4.0], 1, 0)) is None


def test_its_standard_error_is_that_of_resampled_prompts() -> None:
    one, other = points([0.4, 1.0, 2.5], 1.3, -0.2, noise=0.8), points([0.5, 1.2, 2.0], 1.25, -0.2, noise=0.8)
    found = gap(one, other)
    assert found is not None
    draw = np.random.default_rng(1)
    means = []
    for _ in range(400):
        some = draw.integers(0, PROMPTS, PROMPTS)
        taken = gap(*(Points(p.kl, p.utility[:, some], p.initial[some], p.last) for p in (one, other)))
        assert taken is not None
        means.append(taken.mean)
    assert found.se == pytest.approx(np.std(means), rel=0.15)
    mean, se = pooled([found, found])
    assert mean == pytest.approx(found.mean)
    assert se == pytest.approx(found.se / np.sqrt(2))


@pytest.mark.parametrize(("slope", "verdict"), [(1.5, "above"), (1.0, "on"), (0.5, "below")])
def test_two_standard_errors_decide(slope: float, verdict: str) -> None:
    mine = points([0.4, 1.0, 2.5], slope, 0, noise=0.5)
    found = gap(mine, Points(mine.kl, mine.initial + np.sqrt(mine.kl)[:, None], mine.initial, mine.last))
    assert found is not None
    assert found.verdict == verdict


def test_every_arm_is_a_run_that_there_is(tmp_path: Path) -> None:
    listed = arms(list(METHODS), [0, 1], 2)
    assert len(METHODS) - len(VARIANTS) == 12
    assert [arm.seed for arm in listed["dpo"]] == [0, 1, 0, 1]
    assert set(STRENGTHS) == set(METHODS)
    for method in ("sera", "rpo", "irepo-ema"):
        compose_config(["run=demo", *listed[method][0].words])
    arm = Arm("irepo-0.6", ("objective.beta=0.6",), 1, tmp_path)
    assert arm.record() is None
    arm.folder.mkdir()
    rounds = [{"utility": [0.0, 1.0], "kl": {"mean": 0.0}}, {"utility": [1.0, 1.5], "kl": {"mean": 0.5}}]
    (arm.folder / RECORD).write_text(json.dumps({"words": list(arm.words), "seconds": 1, "rounds": rounds}))
    found = curves({"irepo": [arm, Arm("irepo-0.3", (), 1, tmp_path)]})
    assert found["irepo"][1].utility.tolist() == [[1.0, 1.5]]
    assert "irepo ends at gain 0.75 at KL 0.50" in curves_figure(found, "irepo").says
    assert Arm("irepo-0.6", ("objective.beta=0.7",), 1, tmp_path).record() is None
