"""The memory plan before a run: printed by dry_run=plan, and a run that does not fit is refused."""

from pathlib import Path

from conf.compose import CONF
from conf.schema import RunConfig
from flows.memory_plan import MemoryPlan, memory_plan, shapes_folder
from flows.show.memory import memory_table, refuse_too_large
from flows.show.terminal import console
from tasks.modeling.device import card_device, present_device
from tasks.modeling.shape import Shape


def show_memory(config: RunConfig) -> None:
    """Print the memory plan for the card that the configuration names, or for this machine.

    Raises UserError when a stage does not fit it. A policy whose size is not known here has no plan: one line says so.
    """
    folder = shapes_folder(config, CONF / "shapes")
    if folder is None:
        console.print(
            f"memory: not planned, because {config.policy.path} is not on this machine. A folder with its config.json"
            " is enough: policy.shape=<folder>",
            soft_wrap=True,
        )
        return
    device = card_device(config.card) if config.card is not None else present_device()
    plan = memory_plan(config, Shape.of_folder(folder), device)
    console.print(memory_table(plan))
    refuse_too_large(plan)


def check_memory(config: RunConfig, policy: Path) -> MemoryPlan:
    """The memory plan of a run with the policy in folder `policy` on this machine. Raises UserError unless it fits."""
    plan = memory_plan(config, Shape.of_folder(policy), present_device())
    refuse_too_large(plan)
    return plan
