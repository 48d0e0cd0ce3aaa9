"""From a run folder to report.html and figures/*.svg and *.png in it."""

import logging
from collections.abc import Sequence
from pathlib import Path

from storage.files import publish_folder, publish_text
from tasks.reporting.report.drawing import Figure
from tasks.reporting.report.files import read_run
from tasks.reporting.report.page import FIGURE_STYLE, page
from tasks.reporting.report.png import has_font, png

log = logging.getLogger("irepo")

REPORT, FIGURES = "report.html", "figures"


def write_report(root: Path, *, figures: bool = True) -> Path:
    """Write the report of the run in `root` anew; returns its path. Equal files give equal bytes.

    `figures=False` leaves the files in figures/ as they are: they take ten times as long as the page, which has all of
    them in it. PNG files are left out, and the log says so, on a machine without fonts.
    Raises UserError when `root` is no run folder, ValueError when a file in it does not hold what it should.
    """
    html, drawings = page(read_run(root))
    if figures:
        _write_figures(root / FIGURES, drawings)
    publish_text(root / REPORT, html)
    return root / REPORT


def _write_figures(path: Path, drawings: Sequence[Figure]) -> None:
    drawn = has_font()
    if not drawn:
        log.warning("figures are not written as PNG: this machine has no font (Debian: apt install fonts-dejavu-core)")
    with publish_folder(path) as folder:
        for figure in drawings:
            (folder / f"{figure.name}.svg").write_text(figure.svg(FIGURE_STYLE) + "\n", encoding="utf-8")
            if drawn:
                (folder / f"{figure.name}.png").write_bytes(png(figure, FIGURE_STYLE))
