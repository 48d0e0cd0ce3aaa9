"""Judges behind endpoints are asked about published shards while others are sampled."""

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from storage.artifact import Artifact
from storage.errors import UserError
from storage.manifest import MANIFEST
from storage.stage import Spec, mark_part
from tasks.labeling.overlap import asked_ahead, endpoints
from tasks.labeling.settings import LabelSpec
from tasks.labeling.stage import run
from tasks.panel.settings import Budget
from tests.panel.chat_server import ChatServer, prefer
from tests.panel.conftest import World
from tests.waiting import wait_until

TEXTS = {f"p{i}": ["x" * (i + 1), "y" * (i + 2), "z"] for i in range(4)}
QUESTIONS = 4 * 3
QUICK: dict[str, Any] = {"retries": 0, "pause": 0.01, "probes": 1}


class Nothing(BaseModel):
    pass


class Sampling(Spec):
    """Stands for the stage that publishes shards."""

    stage: ClassVar[str] = "generate"
    version: ClassVar[int] = 1
    settings: Nothing = Nothing()


class Round:
    """A generate stage whose shards of one prompt each are published one by one, and the label stage after it."""

    def __init__(self, world: World, server: ChatServer, *, name: str = "early", **judge: Any) -> None:
        settings = {"kind": "judge", "model": "m", "base_url": server.url} | QUICK | judge
        self.made = world.responses(TEXTS, name=f"{name}-made", shards=4, spread=False)
        self.sampling = Sampling(folder=world.folder / f"{name}-sampled", round=1, seed=1)
        self.sampling.folder.mkdir()
        spec = world.spec(TEXTS, {"judge": settings, "long": {"kind": "function", "function": "voters:length"}})
        self.label = spec.model_copy(
            update={"responses": Artifact.planned(self.sampling.folder), "folder": world.folder / f"{name}-label"}
        )

    def publish(self, number: int) -> None:
        path = self.sampling.folder / f"responses-{number:05d}.parquet"
        shutil.copy(self.made / path.name, path)
        mark_part(self.sampling, path)

    def finish(self) -> None:
        shutil.copy(self.made / MANIFEST, self.sampling.folder / MANIFEST)

    def labelled(self) -> list[dict[str, Any]]:
        """The judge's votes after the label stage, without what differs from time to time."""
        spec = self.label.model_copy(update={"responses": Artifact.of_stage(self.sampling.folder)})
        run(spec)
        rows = pq.read_table(spec.folder / "votes.parquet").drop_columns(["seconds"]).to_pylist()
        return [row for row in rows if row["annotator"] == "judge"]


@contextmanager
def threads_end() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "ask-ahead"]


def test_answers_are_there_when_the_label_stage_starts(world: World, server: ChatServer) -> None:
    server.script = prefer(len)
    plain = Round(world, server, name="plain")
    for number in range(4):
        plain.publish(number)
    plain.finish()
    expected = plain.labelled()
    asked = len(server.requests)
    assert asked == 2 * QUESTIONS  # both orders

    early = Round(world, server)
    server.requests.clear()
    early.publish(0)  # by an attempt that was killed
    with threads_end(), asked_ahead(early.label, early.sampling):
        for number in range(1, 5):
            wait_until(lambda number=number: len(server.requests) == number * asked // 4, 20, pause=0.02)  # type: ignore[misc]
            if number < 4:
                early.publish(number)
        early.finish()
    server.requests.clear()
    assert early.labelled() == expected
    assert not server.requests


def test_questions_under_way_are_awaited_and_the_rest_is_left_to_the_label_stage(
    world: World, server: ChatServer
) -> None:
    server.script, server.delay = prefer(len), 0.3
    early = Round(world, server, concurrency=2)
    with asked_ahead(early.label, early.sampling):
        for number in range(4):
            early.publish(number)
        wait_until(lambda: server.active > 0, 20, pause=0.01)
        early.finish()
    under_way, server.delay = len(server.requests), 0.0
    assert server.active == 0
    assert 0 < under_way < 2 * QUESTIONS
    early.labelled()
    assert len(server.requests) == 2 * QUESTIONS  # none was asked twice


def test_a_judge_that_hangs_is_not_awaited_for_long(
    world: World, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.labeling.overlap._LONGEST", 0.1)
    server.delay = 30.0
    early = Round(world, server)
    started = time.monotonic()
    with threads_end(), asked_ahead(early.label, early.sampling):
        early.publish(0)
        wait_until(lambda: server.active > 0, 20, pause=0.01)
    assert time.monotonic() - started < 20


def test_a_dead_judge_neither_stops_sampling_nor_is_hidden(
    world: World, server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = lambda _: (503, "down")
    early = Round(world, server, faults=3, concurrency=1)
    with caplog.at_level(logging.WARNING, "irepo"), asked_ahead(early.label, early.sampling):
        early.publish(0)
        wait_until(lambda: "is not asked any more" in caplog.text, 20)
        for number in range(1, 4):
            early.publish(number)
        early.finish()
    assert "judge is not asked any more while responses are sampled; the label stage asks it again: HTTP 503" in (
        caplog.text
    )
    with pytest.raises(UserError, match="judge was given up: HTTP 503"):
        early.labelled()
    server.script = prefer(len)
    early.labelled()  # the same command, when the judge answers


def test_the_budget_counts_what_was_spent_early(world: World, server: ChatServer) -> None:
    server.script = prefer(len)
    early = Round(world, server, concurrency=1)
    early.label = early.label.model_copy(update={"budget": Budget(tokens=60)})  # a question takes 20
    with asked_ahead(early.label, early.sampling):
        for number in range(4):
            early.publish(number)
        wait_until(lambda: len(server.requests) == 6, 20)
        time.sleep(0.2)
        early.finish()
    assert len(server.requests) == 6
    with pytest.raises(UserError, match="budget is spent: 60 of 60 tokens; 3 of 12 questions"):
        early.labelled()
    assert len(server.requests) == 6


def test_an_error_of_the_sampling_ends_the_questions_at_once(world: World, server: ChatServer) -> None:
    server.delay = 30.0
    early = Round(world, server)
    started = time.monotonic()

    def sample() -> None:
        early.publish(0)
        wait_until(lambda: server.active > 0, 20, pause=0.01)
        raise RuntimeError("out of memory")

    with threads_end(), pytest.raises(RuntimeError, match="out of memory"), asked_ahead(early.label, early.sampling):
        sample()
    assert time.monotonic() - started < 20


def test_shards_of_other_work_and_of_finished_stages_are_not_asked_about(world: World, server: ChatServer) -> None:
    early = Round(world, server)
    early.publish(0)
    mark_part(early.sampling.model_copy(update={"seed": 2}), early.sampling.folder / "responses-00000.parquet")
    with asked_ahead(early.label, early.sampling):
        time.sleep(0.7)
    early.finish()
    early.publish(1)
    with asked_ahead(early.label, early.sampling):
        time.sleep(0.7)
    assert not server.requests


def test_who_is_asked(world: World, server: ChatServer) -> None:
    early = Round(world, server)
    assert list(endpoints(early.label.settings.annotators)) == ["judge"]
    loaded = world.spec(TEXTS, {"own": {"kind": "judge", "backend": "vllm", "model": "policy"}}, out="other")
    assert endpoints(loaded.settings.annotators) == {}
    timed: LabelSpec = early.label.model_copy(update={"budget": Budget(seconds=100)})
    early.publish(0)
    with asked_ahead(timed, early.sampling):
        time.sleep(0.7)
    assert not server.requests


def test_a_damaged_shard_is_left_to_the_label_stage(
    world: World, server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    early = Round(world, server)
    path = early.sampling.folder / "responses-00000.parquet"
    path.write_bytes(b"no parquet")
    mark_part(early.sampling, path)
    with caplog.at_level(logging.WARNING, "irepo"), asked_ahead(early.label, early.sampling):
        wait_until(lambda: "the label stage asks" in caplog.text, 20)
