"""The estimate of dry_run=true on the terminal."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from flows.estimate import Estimate, Usage

_GB = 10**9


def show_estimate(found: Estimate) -> Group:
    """Minutes and disk by stage, tokens and money by chat model, memory, and what is assumed."""
    parts: list[RenderableType] = [_stages(found)]
    if found.usages:
        parts.append(_models(found))
    else:
        parts.append("tokens and money: no annotator and no judge of this run counts any")
    parts.append(
        f"memory: {found.peak / _GB:.1f} GB at most in this process and its children, measured during the probe"
        " (the plan above is computed; a GPU's memory is not measured)"
    )
    parts.append(f"disk: {size(found.free)} free in the run folder")
    parts.extend(found.notes)
    return Group(*parts)


def _stages(found: Estimate) -> Table:
    table = _table("what the run will take, from a probe")
    run = f"{found.rounds} rounds"
    for heading in ("stage", "probe", "a round", run, "disk: a round", run, "from"):
        table.add_column(
            heading, justify="left" if heading in ("stage", "from") else "right", no_wrap=heading != "from"
        )
    for line in found.lines:
        table.add_row(
            line.stage,
            duration(line.probe),
            duration(line.round),
            duration(line.run),
            size(line.round_bytes),
            size(line.run_bytes),
            line.basis,
        )
    table.add_section()
    table.add_row(
        "in all",
        duration(sum(line.probe for line in found.lines)),
        duration(found.round_seconds),
        duration(found.run_seconds),
        size(found.round_bytes),
        size(found.run_bytes),
        "",
    )
    return table


def _models(found: Estimate) -> Table:
    table = _table("tokens and money of chat models, measured in the probe and scaled")
    for heading in ("", "probe: tokens", "cost", "a round: tokens", "cost", f"{found.rounds} rounds: tokens", "cost"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for usage in found.usages:
        table.add_row(usage.name, *_amounts(usage))
    table.add_row("in all", *_totals(found.usages))
    return table


def _amounts(usage: Usage) -> list[str]:
    cells = []
    for times in (1.0, usage.by_round, usage.by_run):
        cells.append("-" if usage.tokens is None or times is None else f"{usage.tokens * times:,.0f}")
        cells.append("-" if usage.cost is None or times is None else f"{usage.cost * times:,.4f}")
    return cells


def _totals(usages: Iterable[Usage]) -> list[str]:
    """Sums of what is known, by column."""
    tokens, cost = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for usage in usages:
        for place, times in enumerate((1.0, usage.by_round or 0.0, usage.by_run)):
            tokens[place] += (usage.tokens or 0) * times
            cost[place] += (usage.cost or 0) * times
    return [cell for place in range(3) for cell in (f"{tokens[place]:,.0f}", f"{cost[place]:,.4f}")]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)


def duration(seconds: float | None) -> str:
    """1.4 s, 12 min or 3.2 h; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """12 kB, 3.4 MB or 1.2 GB; "-" for nothing."""
    if not count:
        return "-"
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 1000:,.0f} kB"
