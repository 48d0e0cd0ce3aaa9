"""dry_run=true with judges on the panel: a probe, its price, and nothing asked twice."""

import json
import re
from pathlib import Path

import pytest

from flows.iterate import main
from storage.errors import UserError
from tests.panel.chat_server import ChatServer


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i}", "answer": str(i)}) + "\n" for i in range(80)))
    return path


def test_a_probe_says_what_the_panel_will_cost(
    tiny_policy: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("COLUMNS", "200")
    server = ChatServer()
    try:
        judge = f"{{kind: judge, model: m, base_url: '{server.url}', price: {{prompt: 2, completion: 10}}}}"
        words = [
            "name=probed", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", f"prompts={prompts}", "panel=rules",
            "evaluation=plain", "engine=transformers", "sampling.max_tokens=8", "sampling.responses=2",
            "prompts.per_round=64", "prompts.heldout=0.1", "preferences.drop_truncated=false", "rounds=3",
            f"+panel.annotators.judge={judge}", "panel.budget.tokens=1000", "dry_run=true",
        ]  # fmt: skip
        main(words)
        shown = capsys.readouterr().out
        asked = len(server.requests)
        assert 40 <= asked <= 64  # both orders of one pair a prompt; equal responses make none
        tokens = int(re.search(r"judge +([\d,]+)", shown)[1].replace(",", ""))  # type: ignore[index]
        assert f"{2 * tokens:,}" in shown
        assert f"{6 * tokens:,}" in shown
        assert "panel.budget.tokens=1000 does not last for a round" in " ".join(shown.split())
        assert not (tmp_path / "runs" / "probed" / "round-01" / "label").exists()
        main(words)
        assert len(server.requests) == asked
    finally:
        server.close()


def test_what_is_not_made_yet_cannot_be_probed(tmp_path: Path) -> None:
    words = ["run=demo", f"runs={tmp_path}", "policy.path=nowhere", "dry_run=true"]
    with pytest.raises(UserError, match="has not been made yet"):
        main(words)
