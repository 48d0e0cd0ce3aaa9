"""Prompts that the chat template refuses: an error with file and line, or left out and counted."""

import json
from pathlib import Path

import pytest

from flows.data_checks import show_prompts
from storage.errors import UserError
from storage.schemas import PROMPTS, read_parquet
from tasks.generation.prompt_fit import fits_context
from tasks.generation.prompts import HELDOUT, TRAIN, PromptSettings, PromptsSpec, run_prompts
from tasks.modeling.conversation import RefusedConversation
from tests.modeling.families import families

GOOD = {"messages": [{"role": "user", "content": "What is it ?"}], "source": "prompts.jsonl:1"}
SYSTEM = {"messages": [{"role": "system", "content": "Be brief ."}, *GOOD["messages"]], "source": "prompts.jsonl:2"}
TWICE = {"messages": [*GOOD["messages"], *GOOD["messages"]], "source": "prompts.jsonl:3"}


@pytest.mark.parametrize(("row", "why"), [(SYSTEM, "System role not supported"), (TWICE, "roles must alternate")])
def test_a_refused_conversation_is_named(row: dict[str, object], why: str) -> None:
    tokenizer = families()["Gemma"].tokenizer()
    with pytest.raises(RefusedConversation, match=why) as refusal:
        fits_context([GOOD, row], tokenizer, context=256, max_tokens=8, drop=True)
    assert refusal.value.where == row["source"]
    assert "prompts.refused_by_template=drop" in refusal.value.remedy
    fits = fits_context([GOOD, row], tokenizer, context=256, max_tokens=8, drop=False, drop_refused=True)
    assert fits == ["fits", "refused_by_template"]


def test_refused_prompts_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy"
    policy.mkdir()
    families()["Gemma"].tokenizer().save_pretrained(policy)
    asked = [[{"role": "user", "content": f"What is {i} ?"}] for i in range(40)]
    for messages in asked[::4]:
        messages.insert(0, {"role": "system", "content": "Be brief ."})
    asked.append([{"role": "user", "content": "sum " * 200}])
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in asked))

    def spec(**settings: str) -> PromptsSpec:
        return PromptsSpec(
            folder=tmp_path / "out", round=0, seed=0, settings=PromptSettings(path=str(path), heldout=0.3, **settings),
            prompts=path, policy=policy, context=100, max_tokens=20,
        )  # fmt: skip

    with pytest.raises(UserError, match="System role not supported") as refusal:
        run_prompts(spec(too_long="drop"))
    assert refusal.value.where == f"{path}:1"
    manifest = run_prompts(spec(too_long="drop", refused_by_template="drop"))
    assert (manifest.summary["dropped_too_long"], manifest.summary["dropped_refused_by_template"]) == (1, 10)
    show_prompts(tmp_path / "out", manifest)
    assert "1 too long, left out; 10 refused by the chat template, left out" in capsys.readouterr().out
    kept = [row for name in (TRAIN, HELDOUT) for row in read_parquet(tmp_path / "out" / name, PROMPTS).to_pylist()]
    assert len(kept) == 30
    assert all(row["messages"][0]["role"] == "user" for row in kept)
