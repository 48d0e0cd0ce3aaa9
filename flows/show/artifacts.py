"""Artifacts of a run in the Prefect UI: a table of rounds, a report per round, links to the page and the run folder."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.plan import Plan
from flows.show.links import address
from flows.show.panel_tables import panel_tables
from flows.show.terminal import cells, markdown_table
from flows.show.text import cell, code, first_part, last_part
from storage.plain import plain
from tasks.evaluation.metrics import SAMPLES
from tasks.evaluation.record import RoundRecord
from tasks.progress import artifact_key
from tasks.reporting.cards.write import write_cards
from tasks.reporting.report.write import write_report

log = logging.getLogger("irepo")

_SAMPLES = 8  # pairs in a report
_LONG = 600  # characters of a sample


def publish_rounds(plan: Plan, rounds: Sequence[RoundRecord]) -> None:
    """Publish the table of all rounds so far (artifact `<run>-rounds`) and write the run's report page.

    The page contains its figures; `draw_figures` writes them as files.
    """
    columns = cells(rounds)
    table = [
        {"round": heading(record), "decision": record.decision or "waits"}
        | {
            cell(name): "–" if column[i] == "-" else cell(column[i]) for name, column in columns
        }  # Markdown would draw "-" as a list's dot
        for i, record in enumerate(rounds)
    ]
    _publish(lambda: create_table_artifact(table, f"{slug(plan)}-rounds", f"{plan.config.name}: rounds so far"))
    _publish_page(plan)


def _publish_page(plan: Plan) -> None:
    """Write cards and report.html, and publish the link `<run>-report`. A failure is logged and stops nothing."""
    page = _write_page(plan, figures=False)
    if page is None:
        return
    try:
        write_cards(plan.layout.root)
    except Exception as error:
        log.warning("cards were not written: %s", error)
    link = address(page)
    _publish(lambda: create_link_artifact(link, page.name, f"{slug(plan)}-report", "The report of the run."))


def draw_figures(plan: Plan) -> None:
    """Write the report's figures as SVG and PNG files: once, at the end of the run, since it takes a while."""
    _write_page(plan, figures=True)


def _write_page(plan: Plan, *, figures: bool) -> Path | None:
    try:
        return write_report(plan.layout.root, figures=figures)
    except Exception as error:
        log.warning("the report was not written: %s", error)
        return None


def publish_folder_link(plan: Plan) -> None:
    """Publish a link to the run folder: on the server of `make serve`, otherwise on the machine of the run."""
    folder = plan.layout.root.resolve()
    _publish(lambda: create_link_artifact(address(folder), str(folder), f"{slug(plan)}-folder", "The run folder."))


def publish_report(plan: Plan, rounds: Sequence[RoundRecord]) -> None:
    """Publish the report on the last of `rounds` (artifact `<run>-round-<number>`)."""
    key = f"{slug(plan)}-round-{rounds[-1].round}"
    text = report(plan, rounds)
    _publish(lambda: create_markdown_artifact(text, key, f"{plan.config.name}: round {rounds[-1].round}"))


def publish_waiting(plan: Plan, number: int, message: str) -> None:
    """Publish what people have to do before round `number` continues (artifact `<run>-votes`)."""
    text = (
        f"# {cell(plan.config.name)}: round {number} waits for people\n\n{_block(message)}\n\n"
        f"{code(f'python -m flows.vote {plan.layout.root}')} serves the page and resumes this run when there are "
        "enough votes; or press *Resume* once there are."
    )
    _publish(lambda: create_markdown_artifact(text, f"{slug(plan)}-votes", f"round {number} waits for people"))


def report(plan: Plan, rounds: Sequence[RoundRecord]) -> str:
    """Markdown: figures of the initial policy, of the round's base and of its result; votes; sample pairs."""
    record = rounds[-1]
    shown = [rounds[0], *(r for r in rounds if r.round == record.base and r.round), record]
    lines = [f"# {cell(plan.config.name)}: round {record.round}", ""]
    lines += markdown_table(["", *(heading(r) for r in shown)], [[name, *row] for name, row in cells(shown)])
    labels = record.labels
    if labels is not None:
        dropped = ", ".join(f"{count} {reason}" for reason, count in labels.dropped.items() if count) or "none"
        lines += ["", "## Votes", ""]
        lines += [f"{labels.pairs} preference pairs of {labels.comparisons} comparisons; left out: {dropped}"]
        lines += ["", *panel_tables(labels)]
    lines += ["", "## Held-out samples, not hand-picked", ""]
    lines += markdown_table(["prompt", "before the round", "after the round"], sample_rows(plan, record, _SAMPLES))
    lines += ["", f"policy: {code(record.policy)}"]
    return "\n".join(lines) + "\n"


def slug(plan: Plan) -> str:
    """The run's name as an artifact key: lower-case letters, digits and dashes."""
    return artifact_key(plan.config.name)


def _block(text: str) -> str:
    """Text as an indented Markdown block, which nothing in the text can end."""
    return "\n".join(f"    {line}" for line in plain(text).splitlines())


def heading(record: RoundRecord) -> str:
    """A round's name above its figures."""
    return f"round {record.round}" if record.round else "initial"


def sample_rows(plan: Plan, record: RoundRecord, count: int) -> list[list[str]]:
    """About `count` held-out prompts, evenly spaced, each with its replies before and after the round, all cut."""
    sides = [record.base, record.round]
    before, after = (_read(plan.layout.stage(number, "evaluate") / SAMPLES) for number in sides)
    pairs = list(zip(before, after, strict=True))
    return [
        [last_part(old["prompt"], _LONG), *(first_part(each["reply"], _LONG) or "(nothing)" for each in (old, new))]
        for old, new in pairs[:: max(1, -(-len(pairs) // count))]
    ]


def _read(path: Path) -> list[dict[str, str]]:
    samples: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return samples


def _publish(create: Callable[[], object]) -> None:
    """Create an artifact. It is for display only: a failure is logged and stops nothing."""
    try:
        create()
    except Exception as error:
        log.warning("an artifact was not published: %s", error)
