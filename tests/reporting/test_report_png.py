"""Figures as PNG: the sizes and colours of the SVG, words included; and a machine without fonts."""

import io
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.reporting.report.drawing import Figure, label, rectangle
from tasks.reporting.report.page import FIGURE_STYLE
from tasks.reporting.report.png import has_font, plain, png
from tasks.reporting.report.write import write_report
from tests.reporting.made_up_run import MadeUpRun

LIGHT = dict(re.findall(r"(--[\w]+): (#\w+)", FIGURE_STYLE.partition("@media")[0]))


def drawn(body: str) -> np.ndarray:
    figure = Figure("f", "title", "says", 100, body, "")
    return np.asarray(Image.open(io.BytesIO(png(figure, FIGURE_STYLE))).convert("RGB"))


def colour(name: str) -> tuple[int, ...]:
    found = LIGHT[name].lstrip("#")
    found = found if len(found) == 6 else "".join(c + c for c in found)
    return tuple(int(found[i : i + 2], 16) for i in (0, 2, 4))


def test_no_variable_and_no_condition_is_left() -> None:
    style = plain(FIGURE_STYLE)
    assert "var(" not in style
    assert "@media" not in style
    assert LIGHT["--c3"] in style
    dark = FIGURE_STYLE.partition("@media")[2]
    assert re.search(r"--c3: (#\w+)", dark)[1] not in style  # type: ignore[index]


@pytest.mark.parametrize("series", range(6))
def test_bars_have_their_colour_on_light_paper(series: int) -> None:
    pixels = drawn(rectangle(100, 20, 100, 50, f"bar c{series}"))
    assert pixels.shape == (200, 720, 3)  # two pixels a unit
    assert tuple(pixels[10, 10]) == colour("--paper")
    assert tuple(pixels[90, 300]) == colour(f"--c{series}")


@pytest.mark.skipif(not has_font(), reason="there is no font on this machine (Debian: apt install fonts-dejavu-core)")
def test_words_are_written() -> None:
    assert (drawn(label(10, 50, "win rate", "head")) != drawn("")).any()


@pytest.mark.skipif(not has_font(), reason="there is no font on this machine (Debian: apt install fonts-dejavu-core)")
def test_every_figure_is_there_as_svg_and_as_png(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "made")
    run.evaluate(0)
    run.round(1, base=0)
    write_report(run.root)
    names = {suffix: {path.stem for path in (run.root / "figures").glob(f"*.{suffix}")} for suffix in ("svg", "png")}
    assert names["svg"] == names["png"] != set()
    for path in (run.root / "figures").glob("*.png"):
        colours = Image.open(path).convert("RGB").getcolors(1 << 20)
        assert colours is not None, path
        assert len(colours) > 10, path  # drawn, not blank


def test_without_fonts_the_log_says_that_there_is_no_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.reporting.report.write.has_font", lambda: False)
    run = MadeUpRun(tmp_path / "made")
    run.evaluate(0)
    with caplog.at_level(logging.WARNING, logger="irepo"):
        write_report(run.root)
    assert "no font" in caplog.text
    assert not list((run.root / "figures").glob("*.png"))
    assert list((run.root / "figures").glob("*.svg"))
