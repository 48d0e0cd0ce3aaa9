"""Progress without a terminal, a line a minute and one at the end; and in Prefect's UI, an artifact that moves."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from tasks import progress
from tests.waiting import wait_until


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


def test_the_artifact_of_a_run_moves_while_its_stage_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the UI shows it: tests/flows/test_ui.py (slow)."""
    shown: list[tuple[str, float, str]] = []

    def create(percent: float, key: str, description: str) -> str:
        shown.append((key, percent, description))
        return key

    def update(artifact: str, percent: float, description: str) -> None:
        shown.append((artifact, percent, description))

    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    monkeypatch.setattr(progress, "TaskRunContext", SimpleNamespace(get=lambda: object()))
    monkeypatch.setattr(progress._Artifact, "_SECONDS", 0.0)
    with progress.progress_bar("train", 1, run="My moving") as report:
        for step in (1, 2, 3):
            report(step, 4, "steps")
            wait_until(lambda: len(shown) == step, 2, pause=0.01)  # noqa: B023
    assert shown == [
        ("my-moving-progress", 25.0, "train of round 1: 1 of 4 steps"),
        ("my-moving-progress", 50.0, "train of round 1: 2 of 4 steps"),
        ("my-moving-progress", 75.0, "train of round 1: 3 of 4 steps"),
        ("my-moving-progress", 100.0, "train of round 1: done"),
    ]


def test_an_artifact_that_cannot_be_written_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def create(percent: float, key: str, description: str) -> str:
        raise ConnectionError("no server")

    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "TaskRunContext", SimpleNamespace(get=lambda: object()))
    monkeypatch.setattr(progress._Artifact, "_SECONDS", 0.0)
    with progress.progress_bar("train", 1) as report:
        for step in (1, 2, 3):
            report(step, 4, "steps")
    assert caplog.messages == ["progress is no longer shown in the UI: no server"]
