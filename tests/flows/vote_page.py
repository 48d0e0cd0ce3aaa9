"""The page for votes, started by its command."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from conf.compose import PROJECT


@contextmanager
def vote_page(run: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """`python -m flows.vote`; yields its address."""
    words = [sys.executable, "-m", "flows.vote", str(run), "--port", "0"]
    process = subprocess.Popen(words, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield next(line.split()[2] for line in process.stdout if line.startswith("vote at"))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
