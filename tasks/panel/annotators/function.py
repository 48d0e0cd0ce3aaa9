"""Annotator of kind `function`: a Python function scores each response."""

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Literal

from storage.errors import UserError
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import SoftScorer

_REMEDY = "write package.module:name, and run irepo from a folder from which the module can be imported"

#: `score(prompt, answer, category, response, ended)`; None abstains.
ScoreFunction = Callable[[str, str | None, str | None, str, bool], float | None]


class FunctionSettings(SoftScorer):
    """A Python function `score(prompt: str, answer: str | None, category: str | None, response: str, ended: bool)`.

    It returns a float, or None to abstain.
    """

    kind: Literal["function"] = "function"
    function: str  # "package.module:name"
    soft: bool = False  # a function is often a check with two values

    def open(self, name: str, *, seed: int) -> "FunctionAnnotator":
        return FunctionAnnotator(name, self)

    def check(self, name: str) -> None:
        self.open(name, seed=0)

    def files(self) -> list[str]:
        return [self.function]


class FunctionAnnotator:
    """The score is the function's value. None is an abstention; an exception is an error."""

    answer_type: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"

    def __init__(self, name: str, settings: FunctionSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin
        self._function = import_function(settings.function, where=f"annotators.{name}.function")

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [apply_function(self._function, response) for response in batch]


def import_function(path: str, *, where: str) -> ScoreFunction:
    """The function at "package.module:name". Raises UserError when it cannot be imported or is not callable."""
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise UserError(f"{path!r} is not of the form package.module:name", where=where, remedy=_REMEDY)
    try:
        function: object = getattr(importlib.import_module(module), name)
    except Exception as error:  # a user's module can raise anything when it is imported
        raise UserError(
            f"{path!r} cannot be imported: {type(error).__name__}: {error}", where=where, remedy=_REMEDY
        ) from error
    if not callable(function):
        raise UserError(f"{path!r} is a {type(function).__name__}, not a function", where=where, remedy=_REMEDY)
    return function


def apply_function(function: ScoreFunction, response: Response) -> Score:
    """The function's score of one response. An exception, or a value that is not a finite number, is an error."""
    try:
        value = function(response.prompt, response.answer, response.category, response.text, response.ended)
        if value is None:
            return Score("abstain")
        if isinstance(value, str):
            return Score("error", raw=f"the function returned the text {value!r}, not a number")
        number = float(value)
    except Exception as error:  # an exception in the user's code fails this response, not the run
        return Score("error", raw=f"{type(error).__name__}: {error}")
    if not math.isfinite(number):
        return Score("error", raw=f"the function returned {number}")
    return Score("score", number)
