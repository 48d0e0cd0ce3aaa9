"""Figures over seeds against scipy-free arithmetic, and the drawing of methods."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tasks.evaluation.record import RoundRecord
from tasks.reporting.comparison import Value, by_round, over_kl, over_seeds, worth, write_figure
from tests.reporting.records import annotator, label_summary, round_record


def record(win: float, kl: float, *, cost: float | None = None) -> RoundRecord:
    rate = {"mean": win / 2, "low": win / 2 - 0.1, "high": win / 2 + 0.2, "n": 9}
    wins = {"initial": {"truth": {"mean": win, "low": win - 0.02, "high": win + 0.04, "n": 9}}}
    return round_record(
        1, labels=label_summary([annotator("judge", cost=cost), annotator("rule")]), win_rate=wins,
        rates={"correct": rate, "truth": rate}, kl={"mean": kl, "se": 0.1, "per_token": 0.1},
    )  # fmt: skip


def test_intervals_are_students() -> None:
    value = over_seeds([Value(mean, None) for mean in (0.6, 0.7, 0.8)])
    assert value.mean == pytest.approx(0.7)
    assert value.half == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert str(value) == "0.700 ±0.248"
    assert str(over_seeds([Value(0.5, None)])) == "0.500"
    assert over_seeds([Value(1.0, 0.3), Value(3.0, 0.3)]).half == pytest.approx(12.706)


def test_one_seed_has_the_intervals_over_its_prompts() -> None:
    (first,) = by_round([[record(0.5, 0), record(0.6, 1)]])
    assert first["win vs initial (truth)"].half == pytest.approx(0.03)
    assert first["KL (nats)"].half == pytest.approx(0.196)
    assert first["mean score (truth)"].half == pytest.approx(0.15)
    assert first["seconds"].half is None


def test_rounds_that_every_seed_has_are_compared() -> None:
    runs = [[record(0.5, 0), record(0.6, 1, cost=2.0), record(0.7, 2)], [record(0.5, 0), record(0.8, 3, cost=4.0)]]
    (first,) = by_round(runs)
    assert first["win vs initial (truth)"].mean == pytest.approx(0.7)
    assert first["KL (nats)"].mean == 2.0
    assert first["correct"].mean == pytest.approx(0.35)
    assert first["seconds"].mean == 3.0
    assert first["cost of votes"].mean == 3.0


def test_every_method_is_drawn_with_its_rounds(tmp_path: Path) -> None:
    methods = {
        name: by_round(
            [[record(0.5, 0), *(record(win + seed / 50, 1 + n) for n, win in enumerate(wins))] for seed in (0, 1)]
        )
        for name, wins in {"irepo": [0.6, 0.7], "dpo": [0.55, 0.65]}.items()
    }
    assert worth(list(methods["irepo"][0])) == ["win vs initial (truth)", "mean score (truth)"]
    for figure, value in (("win vs initial (truth)", "0.710 ±0.127"), ("mean score (truth)", "0.355 ±0.064")):
        write_figure(over_kl(methods, figure), tmp_path / "methods.svg")
        words = " ".join(ElementTree.parse(tmp_path / "methods.svg").getroot().itertext())
        for text in (f"irepo, round 2: {value} at KL 2.000 ±0.000", "dpo, round 1", "nats a reply", figure):
            assert text in words
