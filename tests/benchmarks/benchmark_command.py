"""A benchmark run as a user runs it."""

import os
import subprocess
import sys

from benchmarks.chaos.victim import PROJECT
from tests.waiting import limit


def must_pass(module: str, *words: str) -> None:
    """`python -m module words` exits with 0. Prefect's variables of the tests are not handed on."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        capture_output=True,
        text=True,
        timeout=limit(600),
    )
    assert done.returncode == 0, done.stdout + done.stderr
