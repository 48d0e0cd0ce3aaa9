"""A researcher with her own model: plan, cost, one round, a look at the result, one more round (docs/tour.md)."""

import json
from pathlib import Path

import pytest

from tests.newcomers.shell import run

pytestmark = pytest.mark.slow


def test_from_her_model_to_a_second_round(tiny_policy: Path, tmp_path: Path) -> None:
    unanswered, prompts = tmp_path / "unanswered.jsonl", tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"What is {i} plus {i}?"} for i in range(60)]
    unanswered.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts.write_text("".join(json.dumps(row | {"answer": str(2 * i)}) + "\n" for i, row in enumerate(rows)))
    small = [
        "flows.iterate", "name=mine", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", "engine=transformers",
        "training=small", "training.device=cpu", "sampling.max_tokens=8", "prompts.per_round=8", "prompts.heldout=0.2",
        "preferences.drop_truncated=false",
    ]  # fmt: skip
    folder = tmp_path / "runs" / "mine"

    # What is missing or mistyped is said before anything runs, with what to write.
    assert "policy=" in run("flows.iterate", "name=mine", f"prompts={prompts}", code=2)
    assert "one of: answers" in run(*small, f"prompts={prompts}", "panel=answer", code=2)
    told = run(*small, f"prompts={unanswered}", "panel=answers", "rounds=1", code=2)
    assert "answer" in told
    assert "evaluation=" in told or "panel=" in told
    assert not (folder / "round-01").exists()

    # What will happen, and what it costs.
    words = [*small, f"prompts={prompts}", "panel=answers"]
    assert "round-01/train" in run(*words, "rounds=1", "dry_run=plan")
    estimate = run(*words, "rounds=1", "dry_run=true")
    for unit in ("minutes", "disk", "memory"):
        assert unit in estimate
    assert not (folder / "round-01/generate").exists()

    # One round says whether it helped, and what to do next.
    said = run(*words, "rounds=1")
    assert "win vs initial" in said
    assert "Next:" in said
    assert "-0.00" not in said
    assert (folder / "report.html").is_file()

    # One more round keeps the first; other settings under the same name are refused.
    first = (folder / "round-01/train/manifest.json").read_bytes()
    assert "round 2 of 2" in run(*words, "rounds=2")
    assert (folder / "round-01/train/manifest.json").read_bytes() == first
    assert "overwrite=true" in run(*words, "rounds=2", "training.learning_rate=1e-2", code=2)
    assert "round 2" in run("flows.chat", str(folder), "--against", "initial", typed="What is 3 plus 3?\n/quit\n")
