"""A path that no file can have, links in a circle, a forbidden folder, a full disk: one error, and no traceback."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.compose import PROJECT
from flows.show.terminal import exit_on_user_error
from storage.display import leave


def circle(folder: Path) -> Path:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return folder / "a"


def forbidden(path: Path) -> object:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize("command", [exit_on_user_error, leave], ids=["flows", "storage"])
@pytest.mark.parametrize(
    ("use", "said", "remedy"),
    [
        (lambda folder: (folder / ("a" * 300)).stat(), "File name too long", "255 bytes"),
        (lambda folder: circle(folder).read_text(), "Too many levels of symbolic links", "correct the symbolic links"),
        (forbidden, "may not be used: Permission denied", "fix its permissions"),
    ],
    ids=["long", "circle", "forbidden"],
)
def test_a_path_is_named(
    command: Callable[[Callable[[], object]], None],
    use: Callable[[Path], object],
    said: str,
    remedy: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(lambda: use(tmp_path))
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert str(tmp_path) in shown.replace("\n", "")
    assert remedy in shown


def test_other_errors_of_the_system_keep_their_traceback() -> None:
    def broken() -> int:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    for command in (exit_on_user_error, leave):
        with pytest.raises(ConnectionResetError):
            command(broken)


@pytest.mark.parametrize(
    "body",
    [
        "from flows.show.terminal import exit_on_user_error as run; run(lambda: print('done'))",
        "from flows.help import exit_on_help as run; run(['--help'], lambda words: 'usage')",
    ],
)
def test_output_to_a_full_disk_ends_with_one_error(body: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", body], cwd=PROJECT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: the output cannot be written: No space left on device"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_has_seen_enough_ends_the_command_quietly() -> None:
    body = "from flows.show.terminal import exit_on_user_error\nexit_on_user_error(lambda: print('row\\n' * 100_000))"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run([sys.executable, "-c", body], cwd=PROJECT, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == ""
