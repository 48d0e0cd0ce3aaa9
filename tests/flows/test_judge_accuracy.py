"""The accuracy of judges on LLMBar: figures by hand, a judge behind a local server, questions asked once."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from flows.judge_accuracy import figures, read_annotators, read_pairs
from storage.errors import UserError
from tasks.panel.annotators.rule import RuleSettings
from tests.commands import run_module
from tests.panel.chat_server import ChatServer, fenced

VOTES: list[dict[str, Any]] = [
    {"outcome": "a", "ab": "a", "ba": "a", "label": "a", "probability": 0.9},
    {"outcome": "tie", "ab": "a", "ba": "b", "label": "a", "probability": 0.5},
    {"outcome": "b", "ab": "b", "ba": "b", "label": "a", "probability": 0.2},
    {"outcome": "tie", "ab": "tie", "ba": "b", "label": "b", "probability": None},
    {"outcome": "error", "ab": "error", "ba": "b", "label": "b", "probability": None},
]


def test_figures_by_hand() -> None:
    computed = figures(VOTES)
    assert computed["accuracy"] == (1 + 0.5 + 0 + 0.5) / 4
    assert computed["one_order"] == (2 + 1 + 0 + (0.5 + 1) + 1) / 9
    assert computed["consistent"] == 2 / 4
    # For the first shown: a of "ab" twice, b of "ba" four times; of eight verdicts for a side.
    assert computed["first"] == 6 / 8
    assert computed["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.5) + math.log(0.2)) / 3)
    assert (computed["pairs"], computed["tie"], computed["abstain"], computed["error"]) == (5, 0.4, 0.0, 0.2)
    nothing = figures([{"outcome": "abstain", "ab": None, "ba": None, "label": "a", "probability": None}])
    assert [nothing[name] for name in ("accuracy", "one_order", "consistent", "first", "log_loss")] == [None] * 5


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "llmbar.jsonl.gz"
    rows = [
        {
            "subset": f"s{i % 2}",
            "id": str(i),
            "prompt": f"p{i}",
            "response_a": "x" * i,
            "response_b": "xx",
            "label": "a",
        }
        for i in range(6)
    ]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def judge_accuracy(*words: str | Path) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads(run_module("flows.judge_accuracy", *words, "--json").out)
    return results


def longer(instruction: str) -> str:
    _, first, second = fenced(instruction)
    return "[[A]]" if len(first) >= len(second) else "[[B]]"


def test_a_judge_and_a_rule(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge prefers the longer one, and the first of equals; a rule that prefers the shorter has no orders."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ChatServer()
    server.script = longer
    price = "{prompt: 1, completion: 1}"
    panel = tmp_path / "mine.yaml"
    panel.write_text(
        "annotators:\n"
        f"  judge: {{kind: judge, model: m, base_url: '{server.url}', price: {price}}}\n"
        "  short: {kind: rule, shorter: true}\n"
        "  words: {kind: rule, max_words: 3}\n"
    )
    words = ("--data", data, "--panel", panel, "--answers", tmp_path / "answers")
    judge, short = judge_accuracy(*words, "--annotator", "judge", "--annotator", "short")
    every = judge["figures"]["all"]
    assert (every["accuracy"], every["tie"], every["consistent"]) == (3.5 / 6, 1 / 6, 5 / 6)
    assert every["first"] == 7 / 12
    assert judge["figures"]["s1"]["accuracy"] == 2 / 3
    assert judge["spent"]["tokens"] == 120
    assert judge["spent"]["cost"] == pytest.approx(120e-6)
    assert short["figures"]["all"]["accuracy"] == 3.5 / 6  # in words: one is empty, all others are ties
    assert short["figures"]["all"]["consistent"] is None
    assert len(server.requests) == 12
    again = judge_accuracy(*words, "--annotator", "judge")[0]
    assert again["figures"] == judge["figures"]
    assert len(server.requests) == 12
    server.close()


def test_mistakes_are_the_users_errors(data: Path, tmp_path: Path) -> None:
    for words in (("nobody", (), None), ("judges", ("nobody",), None), (None, (), "{kind: judge}"), (None, (), "{")):
        with pytest.raises(UserError):
            read_annotators(*words)
    assert set(read_annotators("judges", ("judge-one",), None)) == {"judge-one"}
    assert isinstance(read_annotators(None, (), "{kind: rule, shorter: true}")["judge"], RuleSettings)
    assert len(read_pairs(data, limit=4).labels) == 4
    bad = tmp_path / "bad.jsonl"
    for row, wanted in (
        ({"prompt": "p"}, "lacks subset, response_a"),
        (None, "the file has no rows"),
        ("c", "the label is 'c'"),
    ):
        if isinstance(row, str):
            row = {"subset": "s", "prompt": "p", "response_a": "x", "response_b": "y", "label": row}
        bad.write_text("" if row is None else json.dumps(row))
        with pytest.raises(UserError, match=wanted):
            read_pairs(bad)


def test_the_table_and_the_exit_code(data: Path) -> None:
    words = ("flows.judge_accuracy", "--data", data, "--settings")
    done = run_module(*words, "{kind: rule, shorter: true}")
    assert done.code == 0
    assert "58.3%" in done.out
    assert "83.3%" in done.out  # ties
    refused = run_module(*words, "{kind: no}")
    assert refused.code == 2
    assert "settings of annotators are invalid" in refused.err
