"""Names and tags of flow runs in the UI: those of the run they work on."""

import logging
from collections.abc import Iterable, Sequence

from prefect import runtime
from prefect.client.orchestration import get_client

from conf.schema import RunConfig

log = logging.getLogger("irepo")

#: On a flow run that waits for a person.
WAITS = "waits"


def name_after(config: RunConfig, words: Sequence[str]) -> None:
    """Call the flow run at hand after its run, and tag it with its preset, its objective and its gate.

    words: what the run was started with; `run=<preset>` is among them where it has a preset.
    """
    presets = [word.removeprefix("run=") for word in words if word.startswith("run=")]
    name_this_run(config.name, [*presets, f"objective: {config.objective.name}", f"gate: {config.gate.kind}"])


def name_this_run(name: str, tags: Iterable[str]) -> None:
    """Give the flow run at hand a name, and tags beside those it has; WAITS is taken away unless it is among them.

    Names are for display only: a failure is logged and stops nothing.
    """
    flow_run, parent = runtime.flow_run.id, runtime.flow_run.parent_flow_run_id
    if flow_run is None or parent is not None:  # a run of a comparison has its name from there
        return
    wanted = [tag for tag in tags if tag]
    try:
        with get_client(sync_client=True) as client:
            kept = [tag for tag in client.read_flow_run(flow_run).tags if tag not in (WAITS, *wanted)]
            client.update_flow_run(flow_run, name=name, tags=[*kept, *wanted])
    except Exception as error:
        log.warning("the flow run was not named %s: %s", name, error)
