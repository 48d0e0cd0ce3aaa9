"""Rounds that wait for people's votes: a served run is suspended, and resumed when there are enough votes."""

import json
from pathlib import Path
from uuid import UUID, uuid4

from prefect import runtime, suspend_flow_run
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from prefect.states import State

from flows.plan import Plan
from flows.run_names import WAITS, name_this_run
from flows.show.artifacts import publish_waiting
from storage.files import canonical_json, publish_text
from storage.layout import RunLayout
from tasks.label import waits

#: File in a run folder that names the flow run that waits there.
_WAITING = "waiting.json"


def wait_for_votes(plan: Plan, number: int, message: str) -> State[None]:
    """Suspend a served run until somebody resumes it. A run from the command line ends in the returned state.

    A run that is resumed too early is suspended again; its label stage reports what is missing.
    """
    if runtime.deployment.id is not None:
        publish_waiting(plan, number, message)
        name_this_run(f"{plan.config.name}: waits for votes in round {number}", tags=[WAITS])
        publish_text(plan.layout.root / _WAITING, canonical_json({"flow_run": str(runtime.flow_run.id)}) + "\n")
        # Prefect uses a key once, and every attempt may suspend.
        suspend_flow_run(key=f"votes-{uuid4()}", timeout=None)
    return waits(message)


def resume_waiting(layout: RunLayout) -> bool:
    """Resume the flow run that is suspended on this run folder. False when the configured server has none."""
    file: Path = layout.root / _WAITING
    if not file.is_file() or get_current_settings().api.url is None:
        return False
    flow_run = UUID(json.loads(file.read_text(encoding="utf-8"))["flow_run"])
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run).state
        if state is None or not state.is_paused():
            return False
        client.resume_flow_run(flow_run)
    file.unlink()
    return True
