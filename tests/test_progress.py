"""Progress without a terminal: a line a minute, so that a long stage is seen to work, and one at the end."""

import io

import pytest
from rich.console import Console

from tasks import progress


def test_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(progress, "console", Console(file=out, width=100))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress.progress_bar("train", 2) as report:
        for step in range(1, 15):
            now[0] += 25.0
            report(step, 14, "steps")
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines == [
        "round 2 train 3/14 steps 75.0 s",
        "round 2 train 6/14 steps 150.0 s",
        "round 2 train 9/14 steps 225.0 s",
        "round 2 train 12/14 steps 300.0 s",
        "round 2 train 14/14 steps 350.0 s",
    ]


def test_a_stage_that_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=out, width=100))
    with progress.progress_bar("train", 2):
        pass
    assert out.getvalue().split()[:4] == ["round", "2", "train", "kept"]
