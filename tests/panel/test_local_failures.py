"""A local annotator that fails on some questions: those are errors. One that fails on all ends the stage."""

from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, Literal

import pytest

from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.parts import Parts
from tests.panel.conftest import World
from tests.panel.scripted import response

RESPONSES = [response(text) for text in ("one", "two", "three", "four")]


class Local:
    """Scores a batch by `script`, one response after the other."""

    answer_type: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"
    name = "local"
    tie_margin = 0.0

    def __init__(self, script: Callable[[str], Any]) -> None:
        self._script = script

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [self._script(one.text) for one in batch]


def gather(world: World, script: Callable[[str], Any]) -> list[dict[str, Any]]:
    parts = Parts(world.spec({"p": ["a", "b"]}, {"rule": {"kind": "rule", "shorter": True}}), "panel")
    rows: list[dict[str, Any]] = parts.gather(0, Local(script), RESPONSES, lambda _: None, Event()).to_pylist()
    return rows


@pytest.mark.parametrize("broken", [Score("score", float("nan")), Score("score"), Score("error", 1.0), None, "raise"])
def test_what_fails_on_some_questions_is_an_error_there(world: World, broken: Any) -> None:
    def script(text: str) -> Any:
        if text != "two":
            return Score("score", float(len(text)))
        if broken == "raise":
            raise KeyError(text)
        return broken

    rows = gather(world, script)
    assert [row["outcome"] for row in rows] == ["score", "error", "score", "score"]
    assert [row["value"] for row in rows] == [3.0, None, 5.0, 4.0]
    assert rows[1]["raw"]


def test_what_fails_on_all_ends_the_stage(world: World) -> None:
    def script(text: str) -> Any:
        raise MemoryError("no memory for the model")

    with pytest.raises(MemoryError, match="no memory"):
        gather(world, script)
