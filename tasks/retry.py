"""What a task tries again by itself: work whose process died. Errors that a person must mend are not retried."""

from collections.abc import Callable
from typing import Any

from prefect.states import State


def died(*kinds: type[Exception]) -> Callable[[Any, Any, State[Any]], bool]:
    """A task's retry_condition_fn: whether it failed with an exception of one of `kinds`."""

    def condition(task: object, task_run: object, state: State[Any]) -> bool:
        return isinstance(state.result(raise_on_failure=False), kinds)

    return condition
