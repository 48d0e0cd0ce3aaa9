"""A user's terminal: commands as they are typed, and what they print."""

import os
import subprocess
import sys

from conf.compose import PROJECT
from tests.waiting import limit


def run(*words: str, typed: str = "", code: int = 0) -> str:
    """Standard output and error of `python -m words`. Asserts its exit code, and that there is no traceback."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=PROJECT, capture_output=True, text=True, timeout=limit(300),
        env=environment, input=typed,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text
