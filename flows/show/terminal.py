"""The terminal output of a run: the plan, one table after every round, errors."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.show.text import cell, first_part, last_part
from storage.artifact import stage_name
from storage.disk_errors import discard_output, explain_at_exit
from storage.errors import UserError
from storage.plain import PlainConsole
from storage.stage import Spec
from tasks.evaluation.intervals import Interval
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.record import RoundRecord
from tasks.interrupts import interruptible
from tasks.reporting.report.answer import run_verdict
from tasks.reporting.report.files import read_run
from tasks.reporting.verdict import nats

console = PlainConsole()


def exit_on_user_error(body: Callable[[], object]) -> None:
    """Run `body`; print a UserError to standard error and exit with code 2. Ctrl-C exits with 130 and one line.

    Errors of the system that come from a path or a full disk are printed in the same way.
    """
    try:
        with interruptible():
            body()
            sys.stdout.flush()
    except UserError as error:
        _refuse(error)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        discard_output()
        sys.exit(1)
    except OSError as error:
        explained = explain_at_exit(error)
        if explained is None:
            raise
        _refuse(explained)


def _refuse(error: UserError) -> NoReturn:
    PlainConsole(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), str(error)))
    sys.exit(2)


def print_plan(specs: Sequence[Spec]) -> None:
    """Print every stage of a round: its folder, inputs and settings."""
    for spec in specs:
        console.rule(f"{spec.stage}  {stage_name(spec.folder)}", align="left")
        values = spec.model_dump(mode="json")
        console.print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
    console.rule("dry run: no stage was run", align="left")


#: Columns of the table: the initial policy and this many of the latest rounds; rounds.json has all.
_SHOWN = 4


def round_table(rounds: Sequence[RoundRecord]) -> Table:
    """Figures by row, rounds by column. +- is half a 95 % interval."""
    shown = [rounds[0], *rounds[1:][-_SHOWN:]]
    table = Table(title="rounds so far (95 % intervals)", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("", no_wrap=True)
    for record in shown:
        table.add_column(f"round {record.round}" if record.round else "initial", justify="right", no_wrap=True)
    for name, row in cells(shown):
        table.add_row(name, *row)
    return table


_LONGEST = 300  # characters of a prompt or a reply


def samples_table(first: Path, last: Path, count: int = 5) -> Table:
    """Replies of two policies to the same held-out prompts, evenly spaced among the kept samples.

    first, last: folders of evaluate stages. A prompt is shown by its last turn, as the policy saw it.
    """
    before, after = (json.loads((folder / "samples.json").read_text(encoding="utf-8")) for folder in (first, last))
    table = Table(title="held-out samples, not hand-picked", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for heading in ("prompt", "initial policy", "last policy"):
        table.add_column(heading, ratio=1)
    pairs = list(zip(before, after, strict=True))
    for old, new in pairs[:: -(-len(pairs) // count)]:
        replies = (first_part(each["reply"], _LONGEST) for each in (old, new))
        table.add_row(*map(Text, (last_part(old["prompt"], _LONGEST), *replies)))
    return table


def cells(rounds: Sequence[RoundRecord]) -> list[tuple[str, list[str]]]:
    """Rows of the table: a name, and one cell for each of `rounds`."""
    figures = [record.figures for record in rounds]
    rows: list[tuple[str, list[str]]] = []
    latest = figures[-1]
    for source, judges in latest.win_rate.items():
        for judge in judges:
            rates = [_interval(each.win_rate.get(source, {}).get(judge)) for each in figures]
            rows.append((f"win vs {source} ({judge})", rates))
        for judge in sorted(latest.excluded.votes.get(source, {}).keys() - judges.keys()):
            rows.append((f"win vs {source} ({judge})", [_left_out(each, source, judge) for each in figures]))
    if rounds[-1].round and not latest.win_rate:
        rows.append(("win vs initial", ["no judges" if record.round else "-" for record in rounds]))
    rows.append(("KL to initial (nats)", [nats(each.kl) for each in figures]))
    rows.append(("tokens a reply", [f"{each.tokens:.1f}" for each in figures]))
    rows.append(("words a reply", [f"{each.words:.1f}" for each in figures]))
    rows.append(("finished by itself", [f"{each.finish_rate:.3f}" for each in figures]))
    deciding = {judge for judges in latest.win_rate.values() for judge in judges}
    for name in sorted(latest.rates, key=lambda name: (name in deciding, name)):
        label = f"mean score by {name}" if name in deciding else name
        rows.append((label, [f"{each.rates[name].mean:.3f}" if name in each.rates else "-" for each in figures]))
    for stage in dict.fromkeys(stage for record in reversed(rounds) for stage in record.seconds):
        rows.append((f"seconds: {stage}", [_seconds(record.seconds.get(stage)) for record in rounds]))
    return rows


def _left_out(metrics: Metrics, source: str, judge: str) -> str:
    """Why a judge has no win rate: `none: 66 abstain`; `-` where it compared nothing."""
    reasons = metrics.excluded.votes.get(source, {}).get(judge, {})
    return ", ".join(f"none: {count} {reason}" for reason, count in reasons.items() if count) or "-"


def print_verdict(run: Path) -> None:
    """Print whether the run helped, as the report's first sentence; nothing before a round is evaluated."""
    found = run_verdict(read_run(run))
    if found is not None:
        console.print(str(found), soft_wrap=True, markup=False, highlight=False)


def _interval(rate: Interval | None) -> str:
    return f"{rate.mean:.2f} ±{(rate.high - rate.low) / 2:.2f}" if rate else "-"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table. Cells are shown as they are: names and text from models are never Markdown or HTML."""
    lines = [
        [cell(heading) for heading in headings],
        ["---"] * len(headings),
        *([cell(c) for c in row] for row in rows),
    ]
    return ["| " + " | ".join(line) + " |" for line in lines]
