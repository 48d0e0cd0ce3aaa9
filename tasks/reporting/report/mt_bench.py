"""The table of MT-Bench: mean grades by turn and category, for every round."""

from collections.abc import Sequence
from typing import Any

from tasks.reporting.report.drawing import text
from tasks.reporting.report.files import Round
from tasks.reporting.report.tables import Cell, sheet


def table(rounds: Sequence[Round]) -> str:
    """One row per turn and category, one column per round; empty without grades."""
    graded = [each for each in rounds if each.figures.get("mt_bench")]
    if not graded:
        return ""
    summaries = [each.figures["mt_bench"] for each in graded]
    rows: list[list[Cell]] = [["overall", *(_cell(each["overall"]) for each in summaries)]]
    for turn in ("1", "2"):
        rows.append([f"turn {turn}", *(_cell(each["turns"].get(turn)) for each in summaries)])
    for name in dict.fromkeys(name for each in summaries for name in each["categories"]):
        rows.append([name, *(_cell(each["categories"].get(name)) for each in summaries)])
    rows.append(["without a grade", *(str(sum(each["failed"].values())) for each in summaries)])
    headings: list[Cell] = ["", *(f"round {each.number}" if each.number else "initial" for each in graded)]
    judges = ", ".join(dict.fromkeys(each["judge"] for each in summaries))
    note = (
        f"Mean grade from 1 to 10 by {judges}, 95 % bootstrap intervals over questions. Replies of the judge without a "
        "grade are left out. Grades of different judges are not comparable, and neither are published ones."
    )
    return sheet(headings, rows) + f'<p class="quiet">{text(note)}</p>'


def _cell(interval: dict[str, Any] | None) -> Cell:
    return (
        ("–", "") if interval is None else (f"{interval['mean']:.2f}", f"{interval['low']:.2f}–{interval['high']:.2f}")
    )
