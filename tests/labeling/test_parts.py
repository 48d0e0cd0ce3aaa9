"""A labeling pass that dies between two batches: what was said is not asked again, and the bytes are the same."""

import re

import pytest

from tasks.labeling import parts
from tasks.labeling.annotators.judge import Judge
from tasks.labeling.stage import run
from tests.labeling.test_judge import FakeServer

TEXTS = {f"p{i}": ["aaa", "bb", "c"] for i in range(4)}  # 12 comparisons, 24 requests


class Killed(BaseException):
    """As abrupt as a signal: nothing of ours catches it."""


def contents(folder, *names):
    return [(folder / name).read_bytes() for name in names]


def test_a_judge_is_not_asked_twice(world, monkeypatch):
    monkeypatch.setattr(parts, "VOTE_BATCH", 5)
    server = FakeServer()
    try:
        judge = {"kind": "judge", "base_url": server.url, "model": "m"}
        spec = world.spec(TEXTS, {"length": {"kind": "function", "function": "voters:length"}, "judge": judge})
        batches = []
        vote = Judge.vote

        def dying(self, batch):
            if len(batches) == 2:
                raise Killed
            batches.append(len(batch))
            return vote(self, batch)

        monkeypatch.setattr(Judge, "vote", dying)
        with pytest.raises(Killed):
            run(spec)
        assert len(server.requests) == 20
        assert len(list(spec.folder.glob("part-*.parquet"))) == 3
        monkeypatch.setattr(Judge, "vote", vote)
        manifest = run(spec)
    finally:
        server.server.shutdown()
        server.server.server_close()
    assert batches == [5, 5]
    asked = [re.sub(r"[0-9a-f]{12}", "", request["messages"][0]["content"]) for request in server.requests]
    assert len(asked) == 24
    assert manifest.rows["votes"] == 24
    assert not list(spec.folder.glob("*part-*"))


def test_a_resumed_pass_ends_with_the_same_bytes(world, monkeypatch):
    person = {"kind": "simulated", "utility": "voters:quality", "noise": 0.2}
    annotators = {"length": {"kind": "function", "function": "voters:length"}, "person": person}
    texts = {prompt: [f"quality {i}" for i in range(3)] for prompt in TEXTS}
    whole = run(world.spec(texts, annotators, out="whole"))
    monkeypatch.setattr(parts, "VOTE_BATCH", 4)
    spec = world.spec(texts, annotators, out="resumed")
    mark, marked = parts.mark_part, []

    def die_after_two(spec, path):
        mark(spec, path)
        marked.append(path)
        if len(marked) == 2:
            raise Killed

    monkeypatch.setattr(parts, "mark_part", die_after_two)
    with pytest.raises(Killed):
        run(spec)
    marked[0].write_bytes(marked[0].read_bytes()[:-3])  # and one part is cut: made again
    monkeypatch.setattr(parts, "mark_part", mark)
    assert run(spec).content == whole.content
