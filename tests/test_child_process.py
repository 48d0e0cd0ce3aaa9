"""The protocol between a parent and a child process, with real processes; and what a kill of either leaves behind."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.child_process import ROOT, Child, ChildDied, ChildFailed, ChildTooSlow, Done
from tests.child_worker import COMMAND, Numbers, Work
from tests.test_processes import group, wait_gone


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    child = Child("the worker", COMMAND, log=tmp_path / "worker.log")
    yield child
    child.end()
    assert wait_gone(child.pid)


def python(code: str, log: Path) -> Child:
    return Child("the worker", [sys.executable, "-c", code], log=log, takes_requests=False)


def test_messages_keep_their_numbers_and_output_goes_to_the_log(child: Child) -> None:
    child.send(Work(do="print"))
    child.receive(Done)
    values = [0.1 + 0.2, 1e-300, -math.inf, *range(50_000)]  # more than a pipe holds
    child.send(Work(do="sum", values=values))
    assert child.receive(Numbers).values == [*values, -math.inf]
    child.send(Work(do="sum", values=[math.nan]))
    assert math.isnan(child.receive(Numbers).values[0])
    child.send(Work(do="exit"))  # Python writes its buffer at the end
    with pytest.raises(ChildDied):
        child.receive(Done)
    assert {"printed by Python", "written to descriptor 1"} <= set(child.log.read_text().splitlines())


def test_a_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "worker.log").symlink_to(precious)
    child = python("print('printed')", tmp_path / "worker.log")
    child.wait()
    child.end()
    assert precious.read_text() == "kept"
    assert not (tmp_path / "worker.log").is_symlink()


def test_what_the_child_logs_is_logged_by_the_parent_too(child: Child, caplog: pytest.LogCaptureFixture) -> None:
    child.send(Work(do="warn"))
    child.receive(Done)
    assert caplog.messages == ["3 things are odd"]
    assert "3 things are odd" in child.log.read_text()


def test_an_error_of_the_child_is_raised_and_the_child_goes_on(child: Child) -> None:
    child.send(Work(do="refuse"))
    with pytest.raises(UserError, match="too large") as refused:
        child.receive(Done)
    assert (refused.value.where, refused.value.remedy) == ("size=9", "lower size to 8\nor less")
    child.send(Work(do="fail"))
    with pytest.raises(ChildFailed, match=r"the worker failed: KeyError: 'no such thing'\n[\s\S]*Traceback") as failed:
        child.receive(Done)
    assert (failed.value.type_name, failed.value.text) == ("KeyError", "'no such thing'")
    ask(child)


def test_an_exit_is_a_death_with_the_end_of_the_log(child: Child) -> None:
    child.send(Work(do="exit"))
    with pytest.raises(ChildDied, match=r"the worker ended with exit code 3; [\s\S]*the end is near") as died:
        child.receive(Done)
    assert died.value.code == 3
    assert str(child.log) in str(died.value)


def test_a_child_that_does_not_reply_in_time(child: Child) -> None:
    ask(child)
    child.send(Work(do="sleep"))
    clock = time.monotonic()
    with pytest.raises(ChildTooSlow, match="the worker did not answer in time"):
        child.receive(Done, timeout=0.2)
    assert time.monotonic() - clock < 5


def test_a_reply_that_was_received_with_another_is_not_waited_for(tmp_path: Path) -> None:
    """Two replies in one piece: the second is there, although the pipe is empty."""
    line = '\\x1ereply {\\"values\\": [1]}\\n'
    child = python(f'import time; print("{line * 2}", end="", flush=True); time.sleep(100)', tmp_path / "log")
    try:
        for _ in range(2):
            assert child.receive(Numbers, timeout=30).values == [1.0]
    finally:
        child.end()


def test_output_of_a_launcher_is_not_taken_for_replies(tmp_path: Path) -> None:
    code = (
        'import sys; print("W1 {\\"values\\": [0]}"); print("50%", end="")\n'
        'print("\\x1ereply {\\"values\\": [2]}"); print("bye"); sys.stdout.flush(); print("cut", end="")'
    )
    child = python(code, tmp_path / "log")
    try:
        assert [numbers.values for numbers in child.receive_all(Numbers)] == [[2.0]]
        child.wait()
    finally:
        child.end()
    assert (tmp_path / "log").read_text() == 'W1 {"values": [0]}\n50%\nbye\n'


def ask(child: Child) -> None:
    child.send(Work())
    child.receive(Done, timeout=30)


def bring(child: Child, state: str) -> None:
    """start: not ready yet; idle: waits for a request; busy: works on one."""
    child.send(Work())
    if state != "start":
        child.receive(Done)
    if state == "busy":
        child.send(Work(do="sleep"))
        time.sleep(0.2)


@pytest.mark.parametrize("state", ["start", "idle", "busy"])
def test_a_killed_child_is_a_death_and_leaves_nothing_behind(child: Child, state: str) -> None:
    bring(child, state)
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(ChildDied, match=r"was killed by signal 9 \(often: out of memory\)") as died:
        ask(child) if state == "idle" else child.receive(Done, timeout=30)
    assert died.value.code == -9
    assert not child.running
    # The fixture checks that the grandchild is gone too.


PARENT = """
import sys, time
from pathlib import Path
from tasks.child_process import Child
from tests.child_worker import COMMAND
from tests.test_child_process import bring
child = Child("the worker", COMMAND, log=Path(sys.argv[2]))
bring(child, sys.argv[1])
print(child.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("state", ["start", "idle", "busy"])
def test_a_killed_parent_leaves_no_child(state: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, state, str(tmp_path / "log")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert group(pid)
    parent.kill()
    parent.wait()
    assert wait_gone(pid)


def test_a_child_and_its_group_leave_when_the_parent_closes_the_pipe(child: Child) -> None:
    bring(child, "idle")
    assert child._process.stdin is not None
    child._process.stdin.close()
    child._process.wait(timeout=10)
    assert wait_gone(child.pid)
