"""From a run folder to report.html and figures/*.svg and *.png in it."""

import logging
from pathlib import Path

from storage.files import publish_folder, publish_text
from tasks.evaluation.report.files import read_run
from tasks.evaluation.report.page import FIGURE_STYLE, page
from tasks.evaluation.report.png import has_font, png

log = logging.getLogger("irepo")

REPORT, FIGURES = "report.html", "figures"


def write_report(root: Path) -> Path:
    """Write the report of the run in `root` anew; returns its path. Equal files give equal bytes.

    PNG files are left out, and the log says so, on a machine without fonts.
    Raises UserError when `root` is no run folder, ValueError when a file in it does not hold what it should.
    """
    html, figures = page(read_run(root))
    drawn = has_font()
    if not drawn:
        log.warning("figures are not written as PNG: this machine has no font (Debian: apt install fonts-dejavu-core)")
    with publish_folder(root / FIGURES) as folder:
        for figure in figures:
            (folder / f"{figure.name}.svg").write_text(figure.svg(FIGURE_STYLE) + "\n", encoding="utf-8")
            if drawn:
                (folder / f"{figure.name}.png").write_bytes(png(figure, FIGURE_STYLE))
    publish_text(root / REPORT, html)
    return root / REPORT
