"""Writes report.html and figures/*.svg and *.png into a run folder."""

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
    """Write the report of the run in `root`; returns its path. The same run files give the same bytes.

    `figures=False` leaves figures/ unchanged: writing it takes ten times as long as the page, which contains every
    figure. On a machine without fonts PNG files are left out, with a warning in the log.
    Raises UserError when `root` is not a run folder, ValueError when a file in it has unexpected content.
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
