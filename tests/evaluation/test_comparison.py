"""Figures over seeds against scipy-free arithmetic, and the drawing of methods."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from tasks.evaluation.comparison import by_round, over_seeds, utility_figure, write_figure


def record(win, kl, *, cost=None):
    rates = {"correct": {"mean": win / 2}}
    figures = {"win_rate": {"initial": {"truth": {"mean": win}}}, "kl": {"mean": kl}, "tokens": 5.0, "finish_rate": 1.0}
    labels = {"annotators": [{"cost": cost}, {"cost": None}]}
    return {"figures": figures | {"rates": rates}, "seconds": {"train": 2.0, "label": 1.0}, "labels": labels}


def test_intervals_are_students():
    value = over_seeds([0.6, 0.7, 0.8])
    assert value.mean == pytest.approx(0.7)
    assert value.half == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert str(value) == "0.700 ±0.248"
    assert str(over_seeds([0.5])) == "0.500"
    assert over_seeds([1.0, 3.0]).half == pytest.approx(12.706)


def test_rounds_that_every_seed_has_are_compared():
    runs = [[record(0.5, 0), record(0.6, 1, cost=2.0), record(0.7, 2)], [record(0.5, 0), record(0.8, 3, cost=4.0)]]
    (first,) = by_round(runs)
    assert first["win vs initial (truth)"].mean == pytest.approx(0.7)
    assert first["KL (nats)"].mean == 2.0
    assert first["correct"].mean == pytest.approx(0.35)
    assert first["seconds"].mean == 3.0
    assert first["cost of votes"].mean == 3.0


def test_every_method_is_drawn_with_its_rounds(tmp_path):
    methods = {
        name: by_round(
            [[record(0.5, 0), *(record(win + seed / 50, 1 + n) for n, win in enumerate(wins))] for seed in (0, 1)]
        )
        for name, wins in {"irepo": [0.6, 0.7], "dpo": [0.55, 0.65]}.items()
    }
    figure = utility_figure(methods, "truth")
    write_figure(figure, tmp_path / "methods.svg")
    root = ElementTree.parse(tmp_path / "methods.svg").getroot()
    words = " ".join(root.itertext())
    for said in ("irepo, round 2: win rate 0.710 ±0.127 at KL 2.000 ±0.000", "dpo, round 1", "nats a reply"):
        assert said in words
