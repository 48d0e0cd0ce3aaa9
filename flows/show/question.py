"""What the form of a gate asks, as Markdown that a phone can show: sentences and lists, and no tables.

Prefect's dialog is as wide as its widest line that cannot wrap. Cells of its tables do not wrap, nor does a path.
"""

from collections.abc import Sequence
from pathlib import Path

from flows.plan import Plan
from flows.show.artifacts import heading, sample_rows, slug
from flows.show.links import address
from flows.show.terminal import cells
from flows.show.text import cell, code
from tasks.evaluation.record import RoundRecord
from tasks.reporting.report.answer import run_verdict
from tasks.reporting.report.files import read_run

_SAMPLES = 5


def question(plan: Plan, rounds: Sequence[RoundRecord]) -> str:
    """The question, what each answer does, whether the round helped, figures, and replies before and after it."""
    record = rounds[-1]
    before = f"round {record.base}" if record.base else "the initial policy"
    lines = [
        f"**Shall the policy of round {record.round} be promoted?** The run {code(plan.config.name)} waits for a"
        " decision.",
        "",
        "- **promote**: the next round starts from this policy.",
        f"- **roll back**: the next round starts from {before}, as this one did.",
        "- **stop**: this policy is promoted, and the run ends.",
        "",
        *_verdict(plan.layout.root),
        *_figures(rounds),
        "",
        "### Held-out samples, not hand-picked",
        "",
    ]
    for prompt, old, new in sample_rows(plan, record, _SAMPLES):
        lines += [f"**{cell(prompt)}**", "", f"- before: {cell(old)}", f"- after: {cell(new)}", ""]
    page = address(plan.layout.root / "report.html")
    lines += [f"Votes, panel and all rounds: [the report]({page}), or the artifact {code(slug(plan) + '-report')}."]
    return "\n".join(lines) + "\n"


def _verdict(run: Path) -> list[str]:
    found = run_verdict(read_run(run))
    return [] if found is None else [cell(str(found)), ""]


def _figures(rounds: Sequence[RoundRecord]) -> list[str]:
    """One line a figure: its name, then its values from the initial policy to the last round. Seconds are left out."""
    record = rounds[-1]
    shown = [rounds[0], *(each for each in rounds if each.round == record.base and each.round), record]
    named = " → ".join(heading(each) for each in shown)
    figures = [(name, values) for name, values in cells(shown) if not name.startswith("seconds: ")]
    lines = [f"- {cell(name)}: {' → '.join(cell(value) for value in values)}" for name, values in figures]
    return [f"### {named}", "", *lines]
