"""Ctrl-C at every stage of a command: one line, exit code 130, no traceback, and no process left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from conf.compose import PROJECT
from tests.waiting import limit, wait_until


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The process and all its descendants that live."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def runs_now(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def commands(process: subprocess.Popen[str]) -> str:
    lines = []
    for each in family(process):
        try:
            lines.append(" ".join(each.cmdline()))
        except psutil.Error:
            continue
    return "\n".join(lines)


def the_imports(process: subprocess.Popen[str], run: Path) -> bool:
    """The interpreter itself has started, which takes 0.05 s; it imports what the command needs."""
    return bool(sum(psutil.Process(process.pid).cpu_times()[:2]) > 0.2)


def the_servers_start(process: subprocess.Popen[str], run: Path) -> bool:
    return "flows.operations.prefect_server" in commands(process)


def the_training(process: subprocess.Popen[str], run: Path) -> bool:
    return "tasks.training.launch" in commands(process)


@pytest.mark.parametrize("moment", [the_imports, the_servers_start, the_training], ids=lambda moment: moment.__name__)
def test_an_interrupt_is_one_line_and_leaves_nothing(
    tiny_policy: Path, tmp_path: Path, moment: Callable[[subprocess.Popen[str], Path], bool]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {i}", "answer": str(i)}) + "\n" for i in range(30)))
    words = [
        "name=stopped", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", f"prompts={prompts}", "panel=rules",
        "evaluation=plain", "engine=transformers", "training=small", "training.epochs=20000",
        "training.launch=process", "sampling.max_tokens=8", "prompts.per_round=8", "prompts.heldout=0.2",
        "preferences.drop_truncated=false",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.iterate", *words],
        cwd=PROJECT,
        env=environment | {"PREFECT_HOME": str(tmp_path / "prefect")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started: list[psutil.Process] = []
    try:
        pause = 0.02 if moment is the_imports else 0.2  # to look at all processes takes a while
        wait_until(lambda: process.poll() is not None or moment(process, tmp_path / "runs"), 90, pause=pause)
        assert process.poll() is None, process.communicate()
        started = family(process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        printed, errors = process.communicate(timeout=limit(60))
        assert process.returncode == 130, (printed, errors)
        assert "Traceback" not in printed + errors
        (line,) = errors.splitlines()
        assert line.startswith("stopped")
        if moment is the_training:
            assert "To continue: python -m flows.iterate name=stopped" in line
        wait_until(lambda: not runs_now(started), 2, lambda: str(runs_now(started)))
    finally:
        for each in runs_now(started):
            each.kill()


#: A command that handles Ctrl-C. It prints the pid of a child process, and then does what the test says.
COMMAND = """
import sys, time
from tasks import interrupts
from tasks.processes import start_group
with interrupts.interruptible():
    child = start_group(["sleep", "1000"])
    print(child.pid, flush=True)
    {work}
"""


def start(work: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND.format(work=work)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("work", "line"),
    [
        ("time.sleep(1000)", "stopped"),
        ("try:\n        time.sleep(1000)\n    except BaseException:\n        raise KeyboardInterrupt('kept')", "kept"),
        ("import threading\n    threading.Thread(target=time.sleep, args=(1000,)).start()", "stopped"),
    ],
    ids=["plain", "with a line of its own", "with a thread that does not end"],
)
def test_the_line_and_the_groups(work: str, line: str) -> None:
    if "Thread" in work:
        work += "\n    time.sleep(1000)"
    process = start(work)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=limit(10))
    assert (process.returncode, errors) == (130, f"{line}\n")
    wait_until(lambda: not runs_now([child]), 2)


def test_a_second_interrupt_leaves_at_once() -> None:
    work = "try:\n        time.sleep(1000)\n    finally:\n        print('cleaning', flush=True); time.sleep(1000)"
    process = start(work)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=limit(5))
    assert (process.returncode, errors) == (130, "stopped\n")


def test_a_background_job_keeps_ignoring_it() -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import sys; sys.argv[0] = '-m'\n"
        "from tasks import interrupts\n"
        "assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN\n"
        "with interrupts.interruptible(): assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
