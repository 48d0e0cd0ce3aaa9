"""The table of what each round had to learn, and how much of it is in the policy."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reporting.report.drawing import text
from tasks.reporting.report.files import Round
from tasks.reporting.report.tables import Cell, sheet

_NOTE = (
    "Targets of 0: pairs on which the panel is split evenly. Prompts that teach nothing: those without another target. "
    "Update: length of the change of all weights, relative to the weights. Kept: the share of it in the published "
    "policy, from which the next round starts, and in the dtype in which it is sampled (as a projection on the update)."
)


def table(rounds: Sequence[Round]) -> str:
    """One row per round that was labelled or trained; empty where no manifest has these figures."""
    rows = [_row(each) for each in rounds]
    shown = [row for row in rows if any(cell != "–" for cell in row[1:])]
    if not shown:
        return ""
    headings: list[Cell] = [
        "round",
        "targets of 0",
        "prompts that teach nothing",
        "update",
        "kept",
        "kept when sampled",
    ]
    return sheet(headings, shown) + f'<p class="quiet">{text(_NOTE)}</p>'


def _row(each: Round) -> list[Cell]:
    targets: Mapping[str, Any] | None = (each.labels or {}).get("targets")
    update: Mapping[str, Any] | None = each.stages["train"].summary.get("update") if "train" in each.stages else None
    cells: list[Cell] = [str(each.number), "–", "–", "–", "–", "–"]
    if targets:
        cells[1] = _share(targets["zero"] / targets["pairs"])
        cells[2] = f"{targets['prompts'] - targets['informative']} of {targets['prompts']}"
    if update:
        cells[3] = f"{update['relative']:.1e}"
        cells[4] = _share(update["share"])
        cells[5] = (_share(update["share_in_dtype"]), update["dtype"])
    return cells


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"
