"""Who looks after runs whose process is gone: their runner's death ends them, and the server declares them Crashed."""

import os
from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture

from tasks.processes import end_with_parent

ZOMBIES = "irepo: runs without a sign of life are Crashed"
#: Three heartbeats (flows/environment.py sets 30 s): a run is declared within two minutes of its last sign of life.
SILENCE = timedelta(seconds=90)
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDINGS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "Cancelling")

_ends_with_runner = False


def end_with_runner() -> None:
    """In a flow that a runner or worker started: end when that ends, so that nothing works on unseen."""
    global _ends_with_runner
    if "PREFECT__FLOW_RUN_ID" in os.environ and not _ends_with_runner:
        _ends_with_runner = True
        end_with_parent()


def declare_zombies() -> None:
    """Have the server mark irepo's runs Crashed after SILENCE without a heartbeat; they can be retried then.

    Call it once, before other traffic: with SQLite, Prefect 3.7's server can hang when an automation is made while it
    is busy (PrefectHQ/prefect#23055).
    """
    with get_client(sync_client=True) as client:
        if client.read_automations_by_name(ZOMBIES):
            return
    Automation(
        name=ZOMBIES,
        description="A run that lives sends a heartbeat every 30 s.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": "irepo*"},
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDINGS)},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name="Crashed", message="No sign of life: the process is gone. Retry goes on."
            )
        ],
    ).create()
