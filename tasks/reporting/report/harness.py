"""The table of benchmarks: lm-eval's scores by round, and how far they moved from the initial policy's."""

from collections.abc import Sequence
from typing import Any

from tasks.reporting.report.drawing import text
from tasks.reporting.report.files import Round
from tasks.reporting.report.tables import Cell, sheet

_NOTE = (
    "By lm-evaluation-harness, ± its standard error; below each score the difference from the initial policy, and from "
    "the policy that the round started from. The documents are the same each time, so that differences are surer than "
    "the standard errors of the scores suggest."
)


def table(rounds: Sequence[Round]) -> str:
    """A row a task and metric, a column a round; nothing where no benchmark was asked."""
    asked = [each for each in rounds if each.figures.get("harness")]
    if not asked:
        return ""
    rows: list[list[Cell]] = []
    named = {(task, metric): None for each in asked for task, found in _scores(each).items() for metric in found}
    for task, metric in named:
        values = {each.number: _scores(each).get(task, {}).get(metric) for each in asked}
        cells: list[Cell] = [_cell(each, values) for each in asked]
        better = all(value["higher_is_better"] for value in values.values() if value)
        rows.append([(task, metric.removesuffix(",none") + ("" if better else ", less is better")), *cells])
    averages = {each.number: _average(each) for each in asked}
    if any(averages.values()):
        rows.append([("average", "of the tasks"), *(_cell(each, averages) for each in asked)])
    headings: list[Cell] = ["task", *(f"round {each.number}" if each.number else "initial" for each in asked)]
    return sheet(headings, rows) + f'<p class="quiet">{text(_NOTE)}</p>'


def _scores(each: Round) -> dict[str, dict[str, Any]]:
    scores: dict[str, dict[str, Any]] = each.figures["harness"]["scores"]
    return scores


def _average(each: Round) -> dict[str, Any] | None:
    value = each.figures["harness"]["average"]
    return None if value is None else {"value": value, "stderr": None, "higher_is_better": True}


def _cell(each: Round, values: dict[int, dict[str, Any] | None]) -> Cell:
    mine = values.get(each.number)
    if mine is None:
        return "–"
    shown = f"{mine['value']:.4f}" + (f" ±{mine['stderr']:.4f}" if mine["stderr"] is not None else "")
    rivals = dict.fromkeys((0, each.base)) if each.number else {}
    moved = [f"{mine['value'] - theirs['value']:+.4f}" for rival in rivals if (theirs := values.get(rival))]
    return (shown, " / ".join(moved))
