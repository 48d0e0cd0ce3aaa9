"""The table of MT-Bench: mean grades by turn and category, for every round."""

from collections.abc import Sequence

from tasks.evaluation.intervals import Interval
from tasks.evaluation.mt_bench.figures import MtBench
from tasks.reporting.report.drawing import text
from tasks.reporting.report.files import Round
from tasks.reporting.report.tables import Cell, sheet


def table(rounds: Sequence[Round]) -> str:
    """One row per turn and category, one column per round; empty without grades."""
    graded = [round_ for round_ in rounds if round_.figures.get("mt_bench")]
    if not graded:
        return ""
    results = [MtBench.model_validate(round_.figures["mt_bench"]) for round_ in graded]
    rows: list[list[Cell]] = [["overall", *(_cell(result.overall) for result in results)]]
    for turn in ("1", "2"):
        rows.append([f"turn {turn}", *(_cell(result.turns.get(turn)) for result in results)])
    for name in dict.fromkeys(name for result in results for name in result.categories):
        rows.append([name, *(_cell(result.categories.get(name)) for result in results)])
    rows.append(["without a grade", *(str(sum(result.failed.values())) for result in results)])
    headings: list[Cell] = ["", *(f"round {round_.number}" if round_.number else "initial" for round_ in graded)]
    judges = ", ".join(dict.fromkeys(result.judge for result in results))
    note = (
        f"Mean grade from 1 to 10 by {judges}, 95 % bootstrap intervals over questions. Replies of the judge without a "
        "grade are left out. Grades of different judges are not comparable, and neither are published ones."
    )
    return sheet(headings, rows) + f'<p class="quiet">{text(note)}</p>'


def _cell(interval: Interval | None) -> Cell:
    return ("–", "") if interval is None else (f"{interval.mean:.2f}", f"{interval.low:.2f}–{interval.high:.2f}")
