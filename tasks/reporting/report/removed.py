"""The table of policies that were removed to free disk (storage.keep_policies)."""

from collections.abc import Sequence

from storage.display import size
from storage.retention import Removed, removed_bytes
from tasks.reporting.report.drawing import text
from tasks.reporting.report.files import Round
from tasks.reporting.report.tables import Cell, sheet

_NOTE = (
    "These policies are not in the run folder any more. Their stages stay finished: manifests say what the files were, "
    "and every figure here is kept."
)


def table(rounds: Sequence[Round]) -> str:
    """One row per policy that is gone, and their sum; empty when all are there."""
    rows: list[list[Cell]] = []
    total = 0
    for round_ in rounds:
        for stage in round_.stages:
            count, removed = removed_bytes(round_.folder / stage), Removed.of(round_.folder / stage)
            if count and removed is not None:
                rows.append([str(round_.number), stage, size(count), removed.why])
                total += count
    if not rows:
        return ""
    headings: list[Cell] = ["round", "stage", "freed", "why"]
    return sheet(headings, [*rows, ["all", "", size(total), ""]]) + f'<p class="quiet">{text(_NOTE)}</p>'
