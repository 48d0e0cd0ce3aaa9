"""A labeling pass that dies between two batches, or among a judge's answers, resumes from there."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from conf.compose import PROJECT
from storage.stage import Spec, mark_part
from tasks.labeling.stage import run
from tasks.panel import parts
from tests.panel.chat_server import ChatServer
from tests.panel.conftest import World

TEXTS = {f"p{i}": ["aaa", "bb", "c"] for i in range(4)}  # 12 comparisons


class Killed(BaseException):
    """Ends the pass like a signal: no code of ours catches it."""


def test_a_judge_is_not_asked_twice_across_a_kill(world: World) -> None:
    """The real command under kill -9: only unfinished questions are asked again."""
    texts = {f"p{i}": [f"{i} aaa", f"{i} bb", f"{i} c"] for i in range(20)}
    server = ChatServer()
    server.delay = 0.02
    try:
        judge = {"kind": "judge", "base_url": server.url, "model": "m", "concurrency": 4}
        spec = world.spec(texts, {"length": {"kind": "rule", "shorter": True}, "judge": judge})
        spec.save(world.folder / "spec.yaml")
        command = [sys.executable, "-m", "tasks.run", str(world.folder / "spec.yaml")]
        environment = os.environ | {"NO_PROXY": "127.0.0.1"}
        killed = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.requests) < 60:
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        time.sleep(0.1)
        before = len(server.requests)
        assert before < 110
        manifest = run(spec)
    finally:
        server.close()
    requests = Counter(request["messages"][0]["content"] for request in server.requests)
    assert len(requests) == 120
    again = [content for content, times in requests.items() if times > 1]
    assert max(requests.values()) <= 2
    assert len(again) <= 8  # four questions of two requests each were under way
    assert manifest.rows["votes"] == 120
    assert not list(spec.folder.glob("*part-*"))


def test_a_resumed_pass_ends_with_the_same_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    person: dict[str, object] = {"kind": "simulated", "utility": "voters:quality", "noise": 0.2}
    length: dict[str, object] = {"kind": "function", "function": "voters:length"}
    annotators = {"length": length, "person": person}
    texts = {prompt: [f"q{i}" for i in range(3)] for prompt in TEXTS}
    whole = run(world.spec(texts, annotators, out="whole"))
    monkeypatch.setattr(parts, "BATCH", 4)
    spec = world.spec(texts, annotators, out="resumed")
    marked: list[Path] = []

    def die_after_two(spec: Spec, path: Path) -> None:
        mark_part(spec, path)
        marked.append(path)
        if len(marked) == 2:
            raise Killed

    monkeypatch.setattr(parts, "mark_part", die_after_two)
    with pytest.raises(Killed):
        run(spec)
    marked[0].write_bytes(marked[0].read_bytes()[:-3])  # and one part is cut: made again
    monkeypatch.setattr(parts, "mark_part", mark_part)
    assert run(spec).content == whole.content
