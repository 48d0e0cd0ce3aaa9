"""Annotator of kind `function`: a Python function scores each response."""

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from storage.errors import UserError
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer


class FunctionSettings(Scorer):
    """A Python function `score(prompt: str, answer: str | None, category: str | None, response: str, ended: bool)`.

    It returns a float, or None to abstain.
    """

    kind: Literal["function"]
    function: str  # "package.module:name"

    def reads(self) -> list[str]:
        return [self.function]


class FunctionAnnotator:
    """Scores by `function(prompt, answer, category, response, ended)`; None abstains, an exception is an error."""

    kind: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"

    def __init__(self, name: str, settings: FunctionSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin
        self._function = import_function(settings.function, where=f"annotators.{name}.function")

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [apply_function(self._function, response) for response in batch]


def import_function(path: str, *, where: str) -> Callable[..., Any]:
    """The function at "package.module:name". Raises UserError when it cannot be imported or is not callable."""
    module, colon, name = path.partition(":")
    remedy = "give it as package.module:name, importable from the folder that irepo runs in"
    if not (module and colon and name):
        raise UserError(f"{path!r} does not name a function", where=where, remedy=remedy)
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module raises when it is imported
        raise UserError(
            f"{path!r} cannot be imported: {type(error).__name__}: {error}", where=where, remedy=remedy
        ) from error
    if not callable(function):
        raise UserError(f"{path!r} is not a function but a {type(function).__name__}", where=where, remedy=remedy)
    result: Callable[..., Any] = function
    return result


def apply_function(function: Callable[..., Any], response: Response) -> Score:
    """The function's score of one response; whatever it raises, or returns that is no finite number, is an error."""
    try:
        value = function(response.prompt, response.answer, response.category, response.text, response.ended)
        if value is None:
            return Score("abstain")
        if isinstance(value, str):
            return Score("error", raw=f"the function returned the text {value!r}, not a number")
        number = float(value)
    except Exception as error:  # user code: any exception is this response's failure, not the run's
        return Score("error", raw=f"{type(error).__name__}: {error}")
    if not math.isfinite(number):
        return Score("error", raw=f"the function returned {number}")
    return Score("score", number)
