"""The memory plan on the terminal, and as a refusal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.memory_plan import MemoryPlan, Need, too_large
from storage.errors import UserError

_GIB = 1 << 30


def memory_table(plan: MemoryPlan) -> Table:
    """GiB of every stage on one device, by part."""
    device = plan.device
    table = Table(title=f"memory of {device.name}, GiB", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for heading in ("stage", "needs", "of", "parts"):
        table.add_column(heading, justify="right" if heading in ("needs", "of") else "left", no_wrap=heading != "parts")
    for need in plan.needs:
        mark = "" if need.fits else " (too much)"
        table.add_row(f"{need.stage}{mark}", _gib(need.total), _gib(need.available), _parts(need))
    if plan.unknown:
        table.caption = f"not counted, because they are not on this machine: {', '.join(plan.unknown)}"
        table.caption_justify = "left"
    return table


def refuse_too_large(plan: MemoryPlan) -> None:
    """Raise UserError for a stage that does not fit, with what would make it fit."""
    for need in too_large(plan.needs):
        larger = "a larger GPU" if plan.device.gpu else "a machine with more memory (card= plans for a GPU elsewhere)"
        words = " or ".join([*need.remedies, larger])
        raise UserError(
            f"stage {need.stage} needs {_gib(need.total)} GiB, and it can have {_gib(need.available)} GiB of"
            f" {plan.device.name}",
            where=f"memory plan, {need.stage}: {_parts(need)}",
            remedy=f"use {words}",
        )


def _parts(need: Need) -> str:
    return ", ".join(f"{name} {_gib(size)}" for name, size in need.parts.items())


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}" if size >= _GIB / 10 else f"{size / _GIB:.3f}"
