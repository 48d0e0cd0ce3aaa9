"""Task `label`: the panel votes, and votes become preferences. While people on it have not voted, it is Waiting."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled
from prefect.states import State as State

from storage.stage import Spec
from tasks.engines import pause_engines
from tasks.panel.humans.collect import WaitingForVotes
from tasks.report import StageResult, run_with_progress


@task(name="label", persist_result=True, result_serializer="json", cache_policy=NO_CACHE)
def label(spec: Spec) -> StageResult | State[None]:
    """Run or adopt a stage of labels. Ends in a state `Waiting` until people on the panel have voted enough."""
    pause_engines()
    try:
        return run_with_progress(spec)
    except WaitingForVotes as waiting:
        return waits(str(waiting))


#: The state of a run that cannot go on before people have voted. It has neither failed nor finished.
WAITING = "Waiting"


def waits(message: str) -> State[None]:
    """The final state of a task or flow run that waits for people. It is run again when they have voted."""
    return Cancelled(name=WAITING, message=message)
