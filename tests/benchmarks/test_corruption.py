"""Harm to a finished run's files is found, whichever of the benchmark's harms it is; and everything is put back."""

from pathlib import Path

from benchmarks.chaos.corruption import ACTIONS, FORGERIES, corrupt, finished_files
from tests.storage.small_run import SmallRun


def test_every_harm_is_detected_or_harmless(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "policy").mkdir(parents=True)
    (outside / "policy" / "model.bin").write_text("weights")
    (outside / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    run = SmallRun(tmp_path / "run", outside)
    before = {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    harm = corrupt(finished_files(run.root), 300, seed=0)
    assert harm.undetected == []
    assert {action for _, action, _ in harm.trials} == set(ACTIONS + FORGERIES)
    for action in ("planted", "planted link", "linked", *FORGERIES):
        assert {outcome for _, what, outcome in harm.trials if what == action} == {"detected"}, action
    assert {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()} == before
