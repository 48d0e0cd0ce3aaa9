"""The first screen: did the run help, what waits for a person, and every figure before, now and its difference."""

from collections.abc import Callable
from pathlib import Path

from tasks.evaluation.intervals import Interval
from tasks.reporting.report.drawing import text
from tasks.reporting.report.files import RunFiles
from tasks.reporting.report.tables import Cell, sheet
from tasks.reporting.verdict import Change, Measured, Verdict, changes, last_standing, nats, verdict

_NOTE = (
    "Difference with half its 95 % interval, taken as if the two were independent, which is cautious. Better and worse "
    "are said only where the interval excludes 0 and evaluation.better says which values are better."
)


def answer(files: RunFiles) -> str:
    """The verdict of the run, and the question of a round that waits; empty before a round is evaluated."""
    found = run_verdict(files)
    if found is None:
        return ""
    lines = [f'<p class="headline">{text(found.headline)}</p>']
    if found.worse:
        lines.append(f'<p><b class="broken">Worse:</b> {text(", ".join(found.worse))}.</p>')
    lines.append(f"<p><b>Cost:</b> {text(found.cost)}. <b>Next:</b> {text(found.next)}.</p>")
    said = "".join(lines).replace(" %", "&nbsp;%")
    return f'<div class="answer">{said}{_question(files)}</div>'


def run_verdict(files: RunFiles) -> Verdict | None:
    """Whether the run helped; None before a round after the initial one is evaluated."""
    return verdict(files.measured, files.aims)


def _question(files: RunFiles) -> str:
    waiting = files.waiting
    if waiting is None:
        return ""
    rows, folder = "", Path(files.run.config.get("runs") or "runs") / files.name  # wherever the page is read
    for action, meaning in (
        ("promote", "the next round starts from this round's policy"),
        ("'roll back'", f"the next round starts where this one started, from round {waiting.base}"),
        ("stop", "promote this round's policy and end the run"),
    ):
        rows += f"<li><code>python -m flows.gate {text(folder)} {text(action)}</code><br>{text(meaning)}</li>"
    return (
        f'<div class="question"><p><b>Round {waiting.number} waits for your decision. Is its policy better?</b></p>'
        f"<ul>{rows}</ul></div>"
    )


def changes_table(files: RunFiles) -> str:
    """Every figure of the initial policy, of the last policy that was not rolled back, and the difference."""
    rounds = files.measured
    last = last_standing(rounds)
    if last is None or rounds[0].number:
        return ""
    first = rounds[0]
    rows = [*_wins(last), *_sizes(first, last), *(_row(change) for change in changes(first, last, files.aims))]
    headings: list[Cell] = ["figure", "initial", f"round {last.number}", "difference"]
    return sheet(headings, rows) + f'<p class="quiet">{text(_NOTE)}</p>'


def _wins(last: Measured) -> list[list[Cell]]:
    """Comparisons won against the initial policy, in all and by category."""
    of = {"": last.metrics.win_rate} | {name: each.win_rate for name, each in last.metrics.categories.items()}
    rows: list[list[Cell]] = []
    for name, rates in of.items():
        for judge, rate in rates.get("initial", {}).items():
            where = f"{name}: " if name else ""
            says = "better" if rate.low > 0.5 else "worse" if rate.high < 0.5 else "unclear"
            cell = _percent(rate.mean), f"{100 * rate.low:.0f}–{100 * rate.high:.0f}"
            gain = _signed(rate.mean - 0.5, _points), [(says != "worse", says)]
            rows.append([(f"{where}comparisons won", f"by {judge}"), _percent(0.5), cell, gain])
    return rows


def _sizes(first: Measured, last: Measured) -> list[list[Cell]]:
    rows: list[list[Cell]] = [["KL to the initial policy, nats a reply", "0", nats(last.metrics.kl), "–"]]
    for name, value in _SIZES.items():
        before, after = value(first), value(last)
        rows.append([name, _number(before), _number(after), _signed(after - before, _number)])
    return rows


_SIZES: dict[str, Callable[[Measured], float]] = {
    "tokens a reply": lambda each: each.metrics.tokens,
    "words a reply": lambda each: each.metrics.words,
}


def _row(change: Change) -> list[Cell]:
    share = _is_share(change.before) and _is_share(change.after)
    number, difference = (_percent, _points) if share else (_number, _number)
    says = {"same": "", "changed": ""}.get(change.verdict, change.verdict)
    size = f"{100 * change.half:.0f}" if share else _number(change.half)
    cell = f"{_signed(change.difference, difference)} ±{size}"
    items = [(change.verdict != "worse", says)] if says else []
    return [change.name, number(change.before.mean), number(change.after.mean), (cell, items)]


def _is_share(interval: Interval) -> bool:
    return interval.low >= 0 and interval.high <= 1


def _percent(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def _points(value: float) -> str:
    """A difference of two percentages, in percentage points."""
    size = f"{100 * value:.0f}"
    return f"{size}\N{NO-BREAK SPACE}point{'' if size == '1' else 's'}"


def _number(value: float) -> str:
    shown = f"{abs(value):.2f}" if abs(value) < 10 else f"{abs(value):.1f}"
    return shown if value >= 0 else f"\N{MINUS SIGN}{shown}"


def _signed(value: float, number: Callable[[float], str]) -> str:
    """`+3 points`, `−0.20`, `0 points`: without a sign where it rounds to 0."""
    size = number(abs(value))
    return size if size == number(0.0) else ("+" if value > 0 else "\N{MINUS SIGN}") + size
