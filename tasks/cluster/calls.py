"""Calls to actors of a cluster: waiting for them, and what their errors mean."""

import time
from collections.abc import Callable
from typing import Any

from tasks.generation.dealing import NoPlace, WorkerLost

_POLL = 0.5  # seconds


def result_of(call: Any, *, seconds: float | None = None, unneeded: Callable[[], bool] = lambda: False) -> Any:
    """The result of an actor's call.

    Raises what the actor raised, WorkerLost when it or its machine is gone, and NoPlace when it has not answered after
    `seconds`, or is not needed any more.
    """
    import ray

    deadline = None if seconds is None else time.monotonic() + seconds
    while not ray.wait([call], num_returns=1, timeout=_POLL)[0]:
        if unneeded():
            raise NoPlace("it is not needed any more")
        if deadline is not None and time.monotonic() > deadline:
            raise NoPlace(f"it got no place within cluster.place_timeout={seconds:g} s")
    try:
        return ray.get(call)
    except Exception as error:
        raise translated(error) from None


def translated(error: BaseException) -> BaseException:
    """What a worker raised, or WorkerLost when the worker or its machine is gone."""
    from ray.exceptions import RayActorError, RayError, RayTaskError

    if isinstance(error, RayActorError):
        return WorkerLost(str(error))
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, BaseException) else error
    return WorkerLost(str(error)) if isinstance(error, RayError) else error
