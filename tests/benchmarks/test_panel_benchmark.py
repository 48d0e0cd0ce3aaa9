"""The panel benchmark, short."""

import subprocess
import sys

import pytest

from conf.compose import PROJECT
from tests.waiting import limit


@pytest.mark.slow
def test_the_panel_holds_against_a_faulty_endpoint() -> None:
    command = [sys.executable, "-m", "benchmarks.panel", "--short"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=limit(300))
    assert done.returncode == 0, done.stdout + done.stderr
