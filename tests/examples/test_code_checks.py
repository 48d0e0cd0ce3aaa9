"""examples/code_checks: programs pass or fail, and what they try against the machine fails."""

import socket
import time
from pathlib import Path

import psutil
import pytest

from tests.skips import NO_ISOLATION

try:
    from examples.code_checks import sandbox
    from examples.code_checks.sandbox import passes, runs
except RuntimeError:
    pytest.skip(NO_ISOLATION, allow_module_level=True)


def reply(program: str) -> str:
    return f"Here it is:\n```python\n{program}\n```\nDone."


def test_scores_of_replies() -> None:
    tests = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
    good, bad = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"
    assert passes("p", tests, None, reply(good), True) == 1
    assert passes("p", tests, None, reply(bad), True) == 0
    assert passes("p", tests, None, reply(bad) + reply(good), True) == 1  # the last block counts
    assert passes("p", tests, None, good, True) == 0  # no code block
    assert passes("p", None, None, reply(good), True) is None


@pytest.mark.parametrize(
    "program",
    ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise KeyError", "def (", "while True: pass"],
)
def test_a_program_that_does_not_reach_the_end_fails(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1.5)
    started = time.monotonic()
    assert not runs(program, "assert True")
    assert time.monotonic() - started < 15


def test_it_has_no_network_no_files_and_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt works outside the sandbox, so that it is the sandbox that stops it."""
    secret = tmp_path / "secret"
    secret.write_text("key")
    monkeypatch.setenv("JUDGE_KEY", "key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not runs(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)", "")
    assert not runs(f"open({str(secret)!r}).read()", "")
    assert not runs(f"open({str(tmp_path / 'new')!r}, 'w')", "")
    assert not (tmp_path / "new").exists()
    assert runs("import os", "assert 'JUDGE_KEY' not in os.environ")
    assert runs("open('mine', 'w').write('x')", "assert open('mine').read() == 'x'")


def test_memory_is_limited_and_no_process_stays() -> None:
    assert not runs("x = bytearray(2 << 30)", "")
    started = time.monotonic()
    runs("import os, time\nif os.fork() == 0:\n    time.sleep(60)", "")
    assert time.monotonic() - started < 15
    assert not [p for p in psutil.process_iter(["cmdline"]) if "inside.py" in " ".join(p.info["cmdline"] or [])]


def test_it_sees_no_process_of_the_machine() -> None:
    assert runs("import os", "assert os.getpid() < 10")
