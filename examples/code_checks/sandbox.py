"""An annotator of kind `function`: does the program in a reply pass the tests in the prompt's `answer`?

Each program runs in a process of its own. What holds it, layer by layer:

* namespaces (`unshare`): no network, no other process, nothing of the machine's shared memory;
* Landlock: it reads Python and the system's libraries, and writes an empty folder that is removed afterwards;
* limits: seconds of CPU and clock, memory of a process, size of a file, open files, and, unless you are root,
  processes. All processes of a program end with it;
* an empty environment: no key, no address of a proxy.

The kernel is shared. Against programs written to break out of it use a virtual machine, or gVisor.
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.code_checks.landlock import available

SECONDS = 5.0  # by the clock, for the program and its tests
_UNSHARE = ["--user", "--map-current-user", "--net", "--ipc", "--pid", "--fork", "--kill-child=SIGKILL"]
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


def passes(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float | None:
    """1 when the reply's last code block passes the tests in `answer`, else 0; None for a prompt without tests."""
    if not answer:
        return None
    blocks = _BLOCK.findall(response)
    return float(bool(blocks) and runs(blocks[-1], answer))


def runs(program: str, tests: str) -> bool:
    """Whether `program` and then `tests` (assert statements) run to their end in the sandbox."""
    mark = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        process = subprocess.Popen(
            [_unshare(), *_UNSHARE, sys.executable, "-I", str(Path(__file__).with_name("inside.py")), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(
                json.dumps({"program": program, "tests": tests, "mark": mark}).encode(), timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            out = b""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    return process.returncode == 0 and out.decode(errors="replace").rstrip().endswith(mark)


def _unshare() -> str:
    """The command `unshare`. Raises RuntimeError where this machine cannot isolate a program."""
    command = shutil.which("unshare")
    if command is None:
        raise RuntimeError("the command unshare is missing; install util-linux")
    return command


def refuse_without_isolation() -> None:
    """Raise RuntimeError where a namespace or Landlock is not allowed: nothing is run without them."""
    tried = subprocess.run([_unshare(), *_UNSHARE, "true"], capture_output=True, text=True)
    if tried.returncode:
        raise RuntimeError(
            f"this machine does not allow user namespaces ({tried.stderr.strip()}); in a container allow them, or run"
            " the checks in a virtual machine"
        )
    if not available():
        raise RuntimeError("this kernel has no Landlock (Linux 5.13 or newer has); run the checks on another machine")


refuse_without_isolation()  # the run is refused before it starts: the annotator's module is imported then
