"""Text in figures has widths of its own: no label leaves its figure, whatever it says and whatever the font."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tasks.reporting.report.files import read_run
from tasks.reporting.report.lettering import SIZE, SIZES, ems, size, width
from tasks.reporting.report.page import FIGURE_STYLE, page
from tests.reporting.made_up_run import MadeUpRun


def extent(text: ElementTree.Element) -> tuple[float, float]:
    """Left and right end of a text element, in units of its figure."""
    classes = text.get("class", "")
    length = float(text.get("textLength", "0em").removesuffix("em")) * size(classes)
    x = float(text.get("x", "0"))
    left = x - {"start": 0.0, "middle": length / 2, "end": length}[text.get("text-anchor", "start")]
    return left, left + length


@pytest.mark.parametrize("name", ["truth", "W" * 40, "審査員" * 10, "éü̈ — ½"])
@pytest.mark.parametrize("judges", [1, 2, 7])
def test_no_label_leaves_its_figure(tmp_path: Path, name: str, judges: int) -> None:
    names = [f"{name}-{i}" for i in range(judges)]
    run = MadeUpRun(tmp_path / "made", annotators=names, judges=names, priced=True)
    run.evaluate(0)
    run.round(1, base=0)
    run.round(2, base=1)
    _, drawings = page(read_run(run.root))
    assert len(drawings) > 20
    for drawing in drawings:
        figure = ElementTree.fromstring(drawing.svg(FIGURE_STYLE))
        *_, right, _ = (float(number) for number in str(figure.get("viewBox")).split())
        for text in figure.iter("{http://www.w3.org/2000/svg}text"):
            if text.text and not text.get("transform"):
                ends = extent(text)
                assert ends[0] >= -0.1, (drawing.name, text.text, ends)
                assert ends[0] < ends[1] <= right + 0.1, (drawing.name, text.text, ends)


def test_font_sizes_are_those_of_the_style_sheet() -> None:
    rules = dict(re.findall(r"\.chart \.(\w+) \{[^}]*font-size: ([\d.]+)px", FIGURE_STYLE))
    assert {name: float(pixels) for name, pixels in rules.items()} == SIZES
    assert re.search(rf"\.chart {{ font: {SIZE:g}px ", FIGURE_STYLE)
    assert re.findall(r"\.chart \.(\w+) \{[^}]*font-weight: 600", FIGURE_STYLE) == ["head", "name"]


def test_widths_are_those_of_helvetica() -> None:
    assert ems("Win rate") == pytest.approx(0.944 + 0.222 + 0.556 + 0.278 + 0.333 + 0.556 + 0.278 + 0.556)
    assert ems("審") == 1
    assert ems("e\u0301") == ems("e")  # an accent stands above its letter
    assert width("head", "head") == pytest.approx(14 * 1.06 * 4 * 0.556)
