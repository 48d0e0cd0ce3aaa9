"""Who looks after runs: they end with their runner, a lost cancellation reaches them, dead ones are Crashed."""

import logging
import os
import signal
import time
from datetime import timedelta
from uuid import UUID

from prefect import runtime
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.states import Cancelled, Cancelling, Crashed

from flows.operations.temporary_server import TEMPORARY
from flows.operations.work_pool import STAGE_FLOW
from tasks.processes import end_with_parent, start_watcher

log = logging.getLogger("irepo")

#: The flows that send heartbeats and have rounds, and the flow of a round.
FLOWS = ["irepo", "irepo-train"]
ROUND_FLOW = "irepo-round"

ZOMBIES = "irepo: runs without a sign of life are Crashed"
#: An automation of its own: servers that have the first one get it too.
STAGE_ZOMBIES = "irepo: stages in work pools without a sign of life are Crashed"
#: Three heartbeats (environment.py sets 30 s): a run is declared dead within two minutes of its last sign of life.
SILENCE = timedelta(seconds=90)
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDINGS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "Cancelling")
_DEAD = (StateType.CRASHED, StateType.FAILED, StateType.CANCELLED)
#: Seconds between looks at the own run's state, and for how long a runner may take to cancel it.
_LOOK, _PATIENCE = 10.0, 30.0

_supervised: set[str] = set()


def supervise_this_run() -> None:
    """In a flow: end with the runner or worker that started it, and obey a cancellation that nobody else acts on."""
    if TEMPORARY in os.environ or str(runtime.flow_run.id) in _supervised:
        return
    if "PREFECT__FLOW_RUN_ID" in os.environ and not _supervised:
        end_with_parent()
    _supervised.add(str(runtime.flow_run.id))
    close_abandoned_rounds()
    run = UUID(str(runtime.flow_run.id))
    start_watcher("obey-cancellation", lambda: _obey_cancellation(run))


def _obey_cancellation(run: UUID) -> None:
    """End this process when its run has been Cancelling for longer than a runner takes to end it.

    A runner cancels within seconds, but Prefect 3.7's stops doing so once its server was away for about 20 s, and a
    run that was started by hand has none.
    """
    since: float | None = None
    while True:
        time.sleep(_LOOK)
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(run).state
                if state is not None and state.type == StateType.CANCELLING:
                    since = since or time.monotonic()
                    if time.monotonic() - since >= _PATIENCE:
                        _end_cancelled(client, run)
                elif state is not None and state.is_final():
                    return
                else:
                    since = None
        except Exception as error:  # the server is away: look again later
            log.debug("the run's state cannot be read: %s", error)


def _end_cancelled(client: SyncPrefectClient, run: UUID) -> None:
    """Set the run and its rounds Cancelled and leave at once; child processes follow, published files stay.

    Stages in work pools are Cancelling: their workers end them.
    """
    rounds = _open_below(client, [run], ROUND_FLOW)
    for each in _open_below(client, [run, *rounds], STAGE_FLOW):
        client.set_flow_run_state(each, Cancelling(message="Its run was cancelled."))
    for each in [*rounds, run]:
        client.set_flow_run_state(each, Cancelled(message="Cancelled; what is done is kept."), force=True)
    print("the run was cancelled; what is done is kept", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _open_below(client: SyncPrefectClient, runs: list[UUID], flow: str) -> list[UUID]:
    """The subflow runs of `runs` with the flow's name that are in no final state."""
    named = FlowFilter(name=FlowFilterName(any_=[flow]))
    parents = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=runs))
    found = client.read_flow_runs(flow_filter=named, flow_run_filter=parents) if runs else []
    return [each.id for each in found if each.state is None or not each.state.is_final()]


def close_abandoned_rounds() -> None:
    """Set Crashed what killed runs left Running: rounds have no heartbeat of their own. (A retried run reopens its.)

    Stages in work pools go on: the run awaits them when it is started again.
    """
    with get_client(sync_client=True) as client:
        dead = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=FLOWS)),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_DEAD)))),
            sort=FlowRunSort.START_TIME_DESC,
            limit=50,
        )
        for each in _open_below(client, [run.id for run in dead], ROUND_FLOW):
            client.set_flow_run_state(each, Crashed(message="Its run is gone."), force=True)


def declare_zombies() -> None:
    """Have the server mark irepo's runs and stages Crashed after SILENCE without a heartbeat; they can be retried then.

    Call it once, before other traffic: with SQLite, Prefect 3.7's server can hang when an automation is made while it
    is busy (PrefectHQ/prefect#23055).
    """
    for name, flows in ((ZOMBIES, FLOWS), (STAGE_ZOMBIES, [STAGE_FLOW])):
        with get_client(sync_client=True) as client:
            declared = bool(client.read_automations_by_name(name))
        if not declared:
            _declare(name, flows)


def _declare(name: str, flows: list[str]) -> None:
    Automation(
        name=name,
        description="A run that lives sends a heartbeat every 30 s.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": flows},
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
