"""Commands of an example's README, and a way to run them."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping

from conf.compose import PROJECT
from tests.waiting import limit


def commands(name: str) -> list[list[str]]:
    """Words after `python` of each command in the example's README."""
    text = (PROJECT / "examples" / name / "README.md").read_text(encoding="utf-8")
    return [shlex.split(line)[1:] for line in re.findall(r"^    (\.venv/bin/python .*)$", text, re.MULTILINE)]


def run(words: list[str], environment: Mapping[str, str] | None = None, *, code: int = 0) -> str:
    """Run `python words` in the project's folder, which ends with `code`; returns what it printed."""
    variables = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | dict(
        environment or {}
    )
    done = subprocess.run(
        [sys.executable, *words], cwd=PROJECT, capture_output=True, text=True, timeout=limit(600), env=variables
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout
