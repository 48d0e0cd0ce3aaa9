"""Which failures a task retries by itself: those of a process that died. Errors that need a person are not retried."""

from collections.abc import Callable
from typing import Any

from prefect.states import State


def died(*kinds: type[Exception]) -> Callable[[Any, Any, State[Any]], bool]:
    """A task's retry_condition_fn: whether it failed with an exception of one of `kinds`."""

    def condition(task: object, task_run: object, state: State[Any]) -> bool:
        return isinstance(state.result(raise_on_failure=False), kinds)

    return condition
