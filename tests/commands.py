"""Commands run in this process: what `python -m module words` prints and ends with, without a new one's imports.

Kills, signals and what a command imports need a process of its own.
"""

import io
import runpy
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


def run_module(module: str, *words: object) -> Ended:
    """As `python -m module words`. An exception that the command does not turn into an exit code is raised."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    argv = patch.object(sys, "argv", [module, *map(str, words)])
    with redirect_stdout(out), redirect_stderr(err), argv, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)  # it was imported before
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    return Ended(code, out.getvalue(), err.getvalue())
