"""examples/offline-then-online: the commands of its README run, and print the rows of the table that it shows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conf.compose import PROJECT, compose_config
from flows.train_words import train_words
from tests.waiting import limit

FOLDER = PROJECT / "examples/offline-then-online"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    return [shlex.split(line)[1:] for line in re.findall(r"^    (\.venv/bin/python .*)$", README, re.MULTILINE)]


def rows(text: str) -> list[str]:
    """The first cells of the last table of rounds in `text`, headings included."""
    table = re.split(r"held-out samples|```", text.rpartition("rounds so far")[2])[0].splitlines()[1:]
    return [re.split(r"\s{2,}", line.strip())[0] for line in table if re.search(r"\w", line)]


def test_its_words_are_those_of_the_flows() -> None:
    _, train, iterate, chat, export, runs = commands()
    assert [command[1] for command in (train, iterate, chat, export, runs)] == [
        f"flows.{name}" for name in ("train", "iterate", "chat", "export", "runs")
    ]
    offline, online = compose_config(train_words(train[2:])), compose_config(iterate[2:])
    assert offline.data is not None
    assert offline.objective.name == "dpo"
    assert online.policy.path == "runs/offline/policy"


@pytest.mark.slow
def test_its_commands_print_the_rows_it_shows(tmp_path: Path) -> None:
    runs, tiny = tmp_path / "runs", tmp_path / "tiny"
    places = {"runs/": f"{runs}/", "artifacts/tiny": str(tiny), "exported": str(tmp_path / "exported")}

    def run(words: list[str], *more: str) -> str:
        for old, new in places.items():
            words = [re.sub(rf"(^|=){old}", rf"\g<1>{new}", word) for word in words]
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        done = subprocess.run(
            [sys.executable, *words, *more], cwd=PROJECT, capture_output=True, text=True, timeout=limit(600),
            env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    build, train, iterate, chat, export, listed = commands()
    run(build)
    printed = run(train, f"runs={runs}")
    assert "24 pairs read, 24 kept" in printed
    assert rows(printed) == rows(README)
    assert "round 1" in run(iterate, f"runs={runs}")
    assert "online, round 1" in run(chat)
    run(export)
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    table = run(listed, "--runs", str(runs))
    assert re.search(r"offline\s+finished\s+1/1", table)
    assert re.search(r"online\s+finished\s+1/1", table)
