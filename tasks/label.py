"""Task `label`: the panel votes, and votes become preferences. While people on it have not voted, it is Waiting."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled, State

from tasks.labeling.settings import LabelSpec
from tasks.labeling.stage import run
from tasks.panel.humans.collect import WaitingForVotes
from tasks.progress import progress_bar
from tasks.report import stage_result


@task(name="label", task_run_name="label", persist_result=True, result_serializer="json", cache_policy=NO_CACHE)
def label(spec: LabelSpec) -> dict[str, Any] | State[None]:
    """Run or adopt the label stage of `spec`; a state `Waiting` while people on the panel have not said enough."""
    try:
        with progress_bar("label", spec.round) as progress:
            manifest = run(spec, progress)
    except WaitingForVotes as waiting:
        return waits(str(waiting))
    return stage_result(manifest, spec.folder)


#: The state of what cannot go on before people have voted: not a failure, and not done.
WAITING = "Waiting"


def waits(message: str) -> State[None]:
    """The final state of a task or flow run that people keep waiting; it is run again when they have voted."""
    return Cancelled(name=WAITING, message=message)
