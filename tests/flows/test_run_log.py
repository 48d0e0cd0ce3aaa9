"""Warnings reach people: run.log, the terminal, and Prefect's log. The sentences that a user sees in a real run."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.logging.handlers import APILogHandler

from conf.compose import PROJECT
from flows.operations import run_log as module
from flows.operations.run_log import LOG_FILE, run_log
from tests.flows.served import Served
from tests.panel.chat_server import ChatServer, prefer
from tests.waiting import limit

log = logging.getLogger("irepo")


def test_the_terminal_of_a_run_whose_judge_is_down_and_comes_back(
    served: Served, tiny_policy: Path, tmp_path: Path
) -> None:
    def command(words: list[str]) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "flows.iterate", *words], cwd=PROJECT, capture_output=True, text=True,
            timeout=limit(200), env=served.environment | {"COLUMNS": "120", "NO_PROXY": "127.0.0.1"},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {i}", "answer": str(i)}) + "\n" for i in range(20)))
    server = ChatServer()
    judge = f"{{kind: judge, model: m, base_url: '{server.url}', retries: 0, pause: 0.1, probes: 1}}"
    words = [
        "name=small", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", f"prompts={prompts}", "panel=rules",
        "rounds=1", "evaluation=plain", "engine=transformers", "training=small", "training.epochs=1",
        "sampling.max_tokens=8", "sampling.responses=2", "prompts.heldout=0.2", "preferences.drop_truncated=false",
        f"+panel.annotators.judge={judge}",
    ]  # fmt: skip
    folder = tmp_path / "runs" / "small"
    try:
        server.script = lambda instruction: (503, "down for repairs")
        code, shown = command(words)
        assert code == 2, shown
        sentences = [
            "warning: panel.annotators.judge does not answer now: HTTP 503: down for repairs; the stage",
            "warning: judge: 8 faults in a row, last: HTTP 503: down for repairs; the next try is in 0 s",
            "HTTP 503: down for repairs; given up",
            "error: judge was given up: HTTP 503: down for repairs. The stage is not finished; the answers",
            "remedy: give the same command again when the model answers",
            "panel.on_outage=go_on",
        ]
        for sentence in sentences:
            assert sentence in shown
        assert "Traceback" not in shown

        right = prefer(len)
        server.script = lambda instruction: (400, "too long") if "Say 7" in instruction else right(instruction)
        spec = folder / "round-00" / "evaluate" / "responses" / "manifest.json"
        spec.write_text(spec.read_text().replace("{", "{ ", 1) + "damaged")
        code, shown = command(words)
        assert code == 0, shown
        assert "warning: generate of round 0 is done again: " in shown
        assert re.search(r"warning: judge: 1 of \d+ questions fail, the last one with: HTTP 400: too long", shown)
        lines = (folder / LOG_FILE).read_text()
        assert "down for repairs; given up" in lines  # of the first attempt
        assert "generate of round 0 is done again" in lines
    finally:
        server.close()


def test_each_line_reaches_the_file_and_warnings_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_log(tmp_path), run_log(tmp_path):
        log.info("step %d", 3)
        log.warning("the judge [m] is \x1b[2Jdown\u202e")
    log.warning("after the run")
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert [re.sub(r"^\S+ \S+ (\w+) +", r"\1 ", line) for line in lines][1:] == [
        "INFO step 3",
        "WARNING the judge [m] is \x1b[2Jdown\u202e",
    ]
    shown = capsys.readouterr().out
    assert shown == "warning: the judge [m] is [2Jdown\n"


def test_a_second_attempt_is_appended(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with run_log(tmp_path):
            log.warning(text)
    assert [line.split()[-1] for line in (tmp_path / LOG_FILE).read_text().splitlines()][1::2] == ["first", "second"]


def test_prefect_gets_the_lines_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(APILogHandler, "emit", lambda _, record: sent.append(record.getMessage()))
    with run_log(tmp_path):
        log.info("before the flow")
        monkeypatch.setattr(module, "FlowRunContext", SimpleNamespace(get=lambda: object()))
        log.info("a stage is done again")
        log.warning("a judge is down")
    assert sent == ["a stage is done again", "a judge is down"]
