"""The table of benchmarks: lm-eval's scores by round, with their differences from earlier policies."""

from collections.abc import Sequence
from typing import Any

from tasks.reporting.report.drawing import text
from tasks.reporting.report.files import Round
from tasks.reporting.report.tables import Cell, sheet

_NOTE = (
    "Scores of lm-evaluation-harness, ± its standard error; below each, the differences from the initial policy and "
    "from the policy that the round started from. All rounds see the same documents, so a difference is more certain "
    "than the standard errors of the two scores suggest."
)


def table(rounds: Sequence[Round]) -> str:
    """One row per task and metric, one column per round; empty without benchmarks."""
    evaluated = [each for each in rounds if each.figures.get("harness")]
    if not evaluated:
        return ""
    rows: list[list[Cell]] = []
    named = {(task, metric): None for each in evaluated for task, scores in _scores(each).items() for metric in scores}
    for task, metric in named:
        values = {each.number: _scores(each).get(task, {}).get(metric) for each in evaluated}
        cells: list[Cell] = [_cell(each, values) for each in evaluated]
        better = all(value["higher_is_better"] for value in values.values() if value)
        rows.append([(task, metric.removesuffix(",none") + ("" if better else ", lower is better")), *cells])
    averages = {each.number: _average(each) for each in evaluated}
    if any(averages.values()):
        rows.append([("average", "of the tasks"), *(_cell(each, averages) for each in evaluated)])
    headings: list[Cell] = ["task", *(f"round {each.number}" if each.number else "initial" for each in evaluated)]
    return sheet(headings, rows) + f'<p class="quiet">{text(_NOTE)}</p>'


def _scores(each: Round) -> dict[str, dict[str, Any]]:
    scores: dict[str, dict[str, Any]] = each.figures["harness"]["scores"]
    return scores


def _average(each: Round) -> dict[str, Any] | None:
    value = each.figures["harness"]["average"]
    return None if value is None else {"value": value, "stderr": None, "higher_is_better": True}


def _cell(each: Round, values: dict[int, dict[str, Any] | None]) -> Cell:
    own = values.get(each.number)
    if own is None:
        return "–"
    shown = f"{own['value']:.4f}" + (f" ±{own['stderr']:.4f}" if own["stderr"] is not None else "")
    rivals = dict.fromkeys((0, each.base)) if each.number else {}
    moved = [f"{own['value'] - other['value']:+.4f}" for rival in rivals if (other := values.get(rival))]
    return (shown, " / ".join(moved))
