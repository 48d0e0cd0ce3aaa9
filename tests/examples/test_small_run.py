"""examples/small-run: the commands of its README run, and print the rows of the table that it shows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conf.compose import PROJECT

README = (PROJECT / "examples/small-run/README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"^    (\.venv/bin/python .*)$", README, re.MULTILINE)]


def rows(text: str) -> list[str]:
    """The first cells of the last table of rounds in `text`, headings included."""
    table = re.split(r"held-out samples|```", text.rpartition("rounds so far")[2])[0].splitlines()[1:]
    return [re.split(r"\s{2,}", line.strip())[0] for line in table if re.search(r"\w", line)]


def run(words: list[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=PROJECT, capture_output=True, text=True, timeout=400, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_commands_print_the_rows_it_shows(tmp_path: Path) -> None:
    build, iterate, repeat = commands()
    policy = str(tmp_path / "tiny")
    run([policy if word == "artifacts/tiny" else word for word in build])
    printed = run([*iterate, f"policy={policy}", f"runs={tmp_path / 'runs'}"])
    assert len(rows(README)) > 10
    assert rows(printed) == rows(README)
    stage = Path(repeat[-1]).relative_to("runs")
    assert (tmp_path / "runs" / stage / "manifest.json").is_file()
    assert "round-01/train" in run([*repeat[:-1], str(tmp_path / "runs" / stage)])
