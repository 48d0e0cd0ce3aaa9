"""The table of benchmarks: lm-eval's scores by round, with their differences from earlier policies."""

from collections.abc import Mapping, Sequence

from tasks.evaluation.harness.stage import HarnessScores, Score
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
    results = {round_.number: HarnessScores.model_validate(round_.figures["harness"]) for round_ in evaluated}
    named = {
        (task, metric): None
        for result in results.values()
        for task, scores in result.scores.items()
        for metric in scores
    }
    for task, metric in named:
        values = {number: result.scores.get(task, {}).get(metric) for number, result in results.items()}
        cells: list[Cell] = [_cell(round_, values) for round_ in evaluated]
        better = all(value.higher_is_better for value in values.values() if value)
        rows.append([(task, metric.removesuffix(",none") + ("" if better else ", lower is better")), *cells])
    averages = {number: _average(result) for number, result in results.items()}
    if any(averages.values()):
        rows.append([("average", "of the tasks"), *(_cell(round_, averages) for round_ in evaluated)])
    headings: list[Cell] = ["task", *(f"round {round_.number}" if round_.number else "initial" for round_ in evaluated)]
    return sheet(headings, rows) + f'<p class="quiet">{text(_NOTE)}</p>'


def _average(result: HarnessScores) -> Score | None:
    return None if result.average is None else Score(value=result.average, stderr=None, higher_is_better=True)


def _cell(round_: Round, values: Mapping[int, Score | None]) -> Cell:
    own = values.get(round_.number)
    if own is None:
        return "–"
    shown = f"{own.value:.4f}" + (f" ±{own.stderr:.4f}" if own.stderr is not None else "")
    rivals = dict.fromkeys((0, round_.base)) if round_.number else {}
    moved = [f"{own.value - other.value:+.4f}" for rival in rivals if (other := values.get(rival))]
    return (shown, " / ".join(moved))
