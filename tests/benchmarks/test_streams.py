"""The streams benchmark, small."""

import subprocess
import sys
from pathlib import Path

import pytest

from conf.compose import PROJECT
from tests.waiting import limit


@pytest.mark.slow
def test_ten_times_the_prompts_take_ten_times_the_time_and_little_more_memory(tiny_policy: Path) -> None:
    # Fewer than 500 do not fill the blocks that stages work in, and ten times as many do: that would be growth too.
    command = [sys.executable, "-m", "benchmarks.streams", "--prompts", "500", "--policy", str(tiny_policy)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=limit(300))
    assert done.returncode == 0, done.stdout + done.stderr
