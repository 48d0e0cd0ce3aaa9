"""From a run folder to report.html and figures/*.svg in it."""

from pathlib import Path

from storage.files import publish_folder, publish_text
from tasks.evaluation.report.files import read_run
from tasks.evaluation.report.page import FIGURE_STYLE, page

REPORT, FIGURES = "report.html", "figures"


def write_report(root: Path) -> Path:
    """Write the report of the run in `root` anew; returns its path. Equal files give equal bytes.

    Raises UserError when `root` is no run folder, ValueError when a file in it does not hold what it should.
    """
    html, figures = page(read_run(root))
    with publish_folder(root / FIGURES) as folder:
        for figure in figures:
            (folder / f"{figure.name}.svg").write_text(figure.svg(FIGURE_STYLE) + "\n", encoding="utf-8")
    publish_text(root / REPORT, html)
    return root / REPORT
