"""A run folder has one owner; kill -9 of the owner frees it."""

import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.owner import owned

ROOT = Path(__file__).resolve().parents[2]
HOLD = "import sys, time\nfrom pathlib import Path\nfrom storage.owner import owned\n" + (
    "with owned(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def test_a_second_owner_is_refused_by_name_and_a_dead_one_is_succeeded(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on") as caught, owned(tmp_path):
            pass
        assert caught.value.where == str(tmp_path)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with owned(tmp_path):
        pass


def test_the_owner_may_ask_again(tmp_path: Path) -> None:
    with owned(tmp_path):
        with owned(tmp_path / ".." / tmp_path.name):
            pass
        child = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
        assert "another run uses this folder" in child.stderr


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="the run folder cannot be written: Not a directory"),
        owned(tmp_path / "file" / "run"),
    ):
        pass
