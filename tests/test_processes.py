"""Process groups end as a whole, and never outlive the process that started them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.processes import end_group, start_group
from tests.waiting import limit

ROOT = Path(__file__).resolve().parents[1]

# A child that ignores SIGTERM and has a child (`sleep`). Prints both process ids.
CHILD = """
import os, signal, subprocess, time
from tasks.processes import die_with_parent
die_with_parent()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen(["sleep", "1000"])
print(os.getpid(), grandchild.pid, flush=True)
time.sleep(1000)
"""

# A parent that starts it from a thread that ends at once, as Prefect's workers do, and then waits.
PARENT = f"""
import sys, threading, time
from tasks.processes import start_group
thread = threading.Thread(target=start_group, args=([sys.executable, "-c", {CHILD!r}],))
thread.start()
thread.join()
time.sleep(1000)
"""


def group(leader: int) -> list[psutil.Process]:
    """Living processes of the group (not zombies)."""
    members = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                members.append(process)
        except ProcessLookupError:
            continue
    return members


def wait_gone(leader: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + limit(seconds)
    while group(leader) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not group(leader)


def ids(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    assert process.stdout is not None
    leader, grandchild = map(int, process.stdout.readline().split())
    return leader, grandchild


def test_a_killed_parent_leaves_nobody_behind() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT)
    leader, grandchild = ids(parent)
    time.sleep(1.5)  # the thread that forked has ended, which is not the parent's death
    assert {process.pid for process in group(leader)} == {leader, grandchild}
    parent.kill()
    parent.wait()
    assert wait_gone(leader)


def test_a_child_whose_parent_died_before_it_called_die_with_parent() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; from tasks.processes import die_with_parent as d; d(); time.sleep(1000)"],
        start_new_session=True,
        env=dict(os.environ, IREPO_STARTER=str(dead.pid)),
        cwd=ROOT,
    )
    assert child.wait(timeout=limit(10)) == -9


@pytest.mark.parametrize("leader_first", [False, True])
def test_end_group_ends_children_of_children(leader_first: bool) -> None:
    child = start_group([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, cwd=ROOT)
    leader, grandchild = ids(child)
    assert leader == child.pid
    if leader_first:
        child.kill()
        child.wait()
        assert [process.pid for process in group(leader)] == [grandchild]
    end_group(child, grace=0.5)
    end_group(child, grace=0.5)
    assert wait_gone(leader)
    assert child.returncode == -9


@pytest.mark.parametrize("function", ["die_with_parent", "end_with_parent"])
def test_a_watcher_that_fails_ends_its_process(function: str) -> None:
    """As under libfaketime, where time functions raised and a server outlived its run."""
    code = (
        "import sys, time, tasks.processes as processes\n"
        "def sleep(seconds): raise OSError('no such\\nclock')\n"
        "processes.time.sleep, wait = sleep, time.sleep\n"
        f"processes.{function}()\n"
        "wait(1000)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE, cwd=ROOT)
    _, printed = child.communicate(timeout=10)
    assert child.returncode == -9
    (line,) = printed.decode().splitlines()
    name = function.replace("_", "-")
    assert line == f"process {child.pid} ends: its watcher {name} failed: OSError: no such clock"


def test_a_watcher_may_return() -> None:
    code = (
        "import time; from tasks.processes import start_watcher\nstart_watcher('short', lambda: None); time.sleep(0.3)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
