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
    evaluated = [round_ for round_ in rounds if round_.figures.get("harness")]
    if not evaluated:
        return ""
    rows: list[list[Cell]] = []
    named = {
        (task, metric): None for round_ in evaluated for task, scores in _scores(round_).items() for metric in scores
    }
    for task, metric in named:
        values = {round_.number: _scores(round_).get(task, {}).get(metric) for round_ in evaluated}
        cells: list[Cell] = [_cell(round_, values) for round_ in evaluated]
        better = all(value["higher_is_better"] for value in values.values() if value)
        rows.append([(task, metric.removesuffix(",none") + ("" if better else ", lower is better")), *cells])
    averages = {round_.number: _average(round_) for round_ in evaluated}
    if any(averages.values()):
        rows.append([("average", "of the tasks"), *(_cell(round_, averages) for round_ in evaluated)])
    headings: list[Cell] = ["task", *(f"round {round_.number}" if round_.number else "initial" for round_ in evaluated)]
    return sheet(headings, rows) + f'<p class="quiet">{text(_NOTE)}</p>'


def _scores(round_: Round) -> dict[str, dict[str, Any]]:
    scores: dict[str, dict[str, Any]] = round_.figures["harness"]["scores"]
    return scores


def _average(round_: Round) -> dict[str, Any] | None:
    value = round_.figures["harness"]["average"]
    return None if value is None else {"value": value, "stderr": None, "higher_is_better": True}


def _cell(round_: Round, values: dict[int, dict[str, Any] | None]) -> Cell:
    own = values.get(round_.number)
    if own is None:
        return "–"
    shown = f"{own['value']:.4f}" + (f" ±{own['stderr']:.4f}" if own["stderr"] is not None else "")
    rivals = dict.fromkeys((0, round_.base)) if round_.number else {}
    moved = [f"{own['value'] - other['value']:+.4f}" for rival in rivals if (other := values.get(rival))]
    return (shown, " / ".join(moved))
