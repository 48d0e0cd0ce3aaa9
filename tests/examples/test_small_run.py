"""examples/small-run: its rounds have the rows of the table in its README; and (slow) the README's own commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conf.compose import PROJECT, compose_config
from flows.checks import prepare_run
from flows.record import round_record
from flows.round import play_round, play_start
from flows.show.terminal import console, round_table
from flows.stages import BareStages
from tasks.engines import close_engines
from tasks.evaluation.record import RoundRecord

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


def test_its_rounds_have_the_rows_it_shows(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both rounds in this process, without Prefect; the policy is the one that the first command makes."""
    monkeypatch.chdir(PROJECT)
    _, iterate, _ = commands()
    plan = prepare_run(compose_config([*iterate[3:], f"policy={tiny_policy}", f"runs={tmp_path / 'runs'}"]))
    records: list[RoundRecord] = []
    try:
        for number in range(plan.config.rounds + 1):
            stages, chain = BareStages(), list(range(max(number, 1)))
            if number:
                play_round(stages, plan, number, chain)
            else:
                play_start(stages, plan)
            records.append(round_record(plan, number, chain, stages.manifests).decided("promote"))
    finally:
        close_engines()
    console.print(round_table(records))
    assert len(rows(README)) > 10
    assert rows(capsys.readouterr().out) == rows(README)


@pytest.mark.slow
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
