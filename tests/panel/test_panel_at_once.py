"""Annotators work at the same time, and one annotator's failure ends the pass without waiting for the others."""

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from storage.errors import UserError
from tasks.panel.annotators.protocol import Annotator, AnswerType, Lane, Limits, Response, Score, Vote
from tasks.panel.parts import Parts
from tasks.panel.voting import AnswerStore, vote
from tests.panel.conftest import World
from tests.panel.scripted import Scripted, response

RESPONSES = [response(f"{i}", prompt=f"p{i // 2}", index=i % 2) for i in range(24)]
PAIRS = np.arange(24).reshape(-1, 2)


class Sleeper:
    """A slow local annotator."""

    tie_margin = 0.0
    answer_type: AnswerType = "scores"

    def __init__(self, name: str, lane: Lane, seconds: float, log: list[tuple[str, str]]) -> None:
        self.name, self.lane, self._seconds, self.log = name, lane, seconds, log

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        self.log.append((self.name, threading.current_thread().name))
        time.sleep(self._seconds)
        return [Score("score", float(each.text)) for each in batch]


@pytest.fixture
def store(world: World) -> AnswerStore:
    spec = world.spec({"p": ["a", "b"]}, {"one": {"kind": "rule", "shorter": True}})
    spec.folder.mkdir()
    return AnswerStore(Parts(spec, "panel"), spec.folder / "answers")


def test_a_pass_takes_as_long_as_its_slowest(store: AnswerStore) -> None:
    log: list[tuple[str, str]] = []
    limits = Limits(concurrency=4, faults=3, pause=1, probes=1)
    remote = [Scripted(lambda _: Vote("a"), name=f"r{i}", identity=f"r{i}", delay=0.1, limits=limits) for i in range(3)]
    local = [
        Sleeper("slow", "model", 0.3, log),
        Sleeper("rule", "python", 0.15, log),
        Sleeper("rule2", "python", 0.15, log),
    ]
    started = time.monotonic()
    counts: list[tuple[int, int]] = []
    annotators: list[Annotator] = [remote[0], local[0], remote[1], *local[1:], remote[2]]
    cast = vote(annotators, RESPONSES, PAIRS, store, lambda done, total, unit: counts.append((done, total)))
    seconds = time.monotonic() - started
    assert 0.3 <= seconds < 1.2  # one after the other: 1.5; the slowest alone: 0.3
    assert cast.votes["annotator"].to_pylist()[:: len(PAIRS)] == ["r0", "slow", "r1", "rule", "rule2", "r2"]
    assert len(cast.scores) == 3 * len(RESPONSES)
    threads = dict(log)
    assert threads["rule"] == threads["rule2"] != threads["slow"]
    total = 3 * len(PAIRS) + 3 * len(RESPONSES)
    assert (counts[0], counts[-1]) == ((0, total), (total, total))


def test_a_failure_ends_the_pass(store: AnswerStore) -> None:
    def refuse(_: object) -> Vote:
        raise UserError("no", where="here", remedy="none")

    started = time.monotonic()
    with pytest.raises(UserError, match="no"):
        vote([Scripted(refuse), Scripted(lambda _: Vote("a"), name="slow", delay=5)], RESPONSES, PAIRS, store)
    assert time.monotonic() - started < 2
