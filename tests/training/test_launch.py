"""The train stage in a child process: same result, progress passed on, failures with the end of its log."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from storage.errors import UserError
from storage.manifest import read_manifest
from tasks.run import main
from tasks.training import launch as launching
from tasks.training.launch import TrainingDied, TrainingFailed, launch
from tasks.training.settings import CHECKPOINTS
from tasks.training.trainer import run
from tests.training.conftest import MakeSpec
from tests.training.preference_rows import preference_row

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_process_gives_what_inline_gives(make_spec: MakeSpec) -> None:
    spec = make_spec("process", optimization={"launch": "process"})
    seen: list[tuple[int, int, str]] = []
    manifest = launch(spec, lambda done, total, unit: seen.append((done, total, unit)))
    assert manifest.key == spec.key()
    assert seen[-3:] == [(1, 3, "steps"), (2, 3, "steps"), (3, 3, "steps")]
    inline = launch(make_spec("inline"))
    assert [entry.sha256 for entry in inline.files] == [entry.sha256 for entry in manifest.files]
    assert launch(spec) == manifest


@pytest.mark.parametrize("mode", ["inline", "process"])
def test_checkpoints_of_a_finished_stage_are_removed(make_spec: MakeSpec, mode: str) -> None:
    """They are still there after a kill between the manifest and their removal."""
    spec = make_spec(optimization={"launch": mode})
    manifest = run(spec)
    left = spec.folder / CHECKPOINTS / "step-000002"
    left.mkdir(parents=True)
    assert launch(spec) == manifest
    assert not left.parent.exists()


@pytest.mark.slow
def test_user_error_comes_through(make_spec: MakeSpec) -> None:
    rows = [preference_row("a", [40], [[50, 2], [5000, 2]], 0, 1, 1.0)]
    spec = make_spec(rows=rows, optimization={"launch": "process"})
    with pytest.raises(UserError, match="token id 5000") as caught:
        launch(spec)
    assert str(spec.preferences.path) in caught.value.where


#: A child that prints its id as progress, and waits.
REPORTING = """
import os, time
print('\\x1ereply {"done": %d, "total": 2, "unit": "steps"}' % os.getpid(), flush=True)
time.sleep(600)
"""


def use_child(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Have `launch` run `code` instead of the training."""
    (folder / "stand_in.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(launching, "_MODULE", "stand_in")


@pytest.mark.parametrize(
    ("code", "kind", "how"),
    [
        ("import sys; sys.exit('the GPU is lost')", TrainingFailed, "ended with exit code 1"),
        ("import os, sys; print('the GPU is lost', file=sys.stderr); os.kill(os.getpid(), 15)", TrainingDied, "15"),
    ],
)
def test_other_failures_show_the_end_of_the_log(
    code: str, kind: type[Exception], how: str, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_child(monkeypatch, tmp_path, code)
    with pytest.raises(TrainingFailed, match=rf"{how}(.|\n)*the GPU is lost") as failed:
        launch(make_spec(optimization={"launch": "process"}))
    assert type(failed.value) is kind


def test_interrupted_parent_ends_its_child(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    children: list[int] = []

    def interrupt(done: int, total: int, unit: str) -> None:
        children.append(done)
        raise KeyboardInterrupt

    use_child(monkeypatch, tmp_path, REPORTING)
    with pytest.raises(KeyboardInterrupt):
        launch(make_spec(optimization={"launch": "process"}), interrupt)
    assert not psutil.pid_exists(children[0])


def test_torch_is_not_imported_to_launch() -> None:
    script = "import sys; import tasks.training.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_command_adopts_a_finished_stage(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m tasks.run <folder>`, with the spec that the stage left behind."""
    spec = make_spec()
    manifest = run(spec)
    monkeypatch.setattr(sys, "argv", ["tasks.run", str(spec.folder)])
    main()
    assert read_manifest(spec.folder) == manifest
