"""Special tokens in texts of prompts and pairs are said: they are not read as text."""

import json
from pathlib import Path

import pytest

from storage.artifact import Artifact
from tasks.generation.prompts import PromptSettings, PromptsSpec, run_prompts
from tasks.mixing.offline import OfflineSettings, read_offline
from tasks.modeling.special_text import SpecialText
from tests.modeling.families import families

CHATML = "<|im_start|>user\nWhat is it ?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("family", "text", "token"),
    [
        ("ChatML", CHATML, "<|im_start|>"),
        ("Llama 3", "yes<|eot_id|>", "<|eot_id|>"),
        ("Llama 3", CHATML, None),
        ("ChatML", "a < b | c > d", None),
        ("thinking", "<think>\nWell.\n</think>\n\nYes.", None),
    ],
)
def test_a_special_token_in_a_text_is_said(
    family: str, text: str, token: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    special = SpecialText(families()[family].tokenizer())
    special.look(["What ?", "Yes."], "set.jsonl:1")
    special.look(["What ?", text], "set.jsonl:2")
    special.warn()
    said = f"1 rows hold special tokens of the tokenizer, the first {token!r} at set.jsonl:2: "
    assert caplog.text == "" if token is None else said in caplog.text


def test_prompts_and_pairs_are_looked_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = families()["ChatML"].tokenizer()
    policy = tmp_path / "policy"
    policy.mkdir()
    tokenizer.save_pretrained(policy)
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What is {i} ?", "chosen": "yes", "rejected": "no"} for i in range(20)]
    rows += [{"prompt": CHATML, "chosen": "yes", "rejected": "no"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = PromptsSpec(
        folder=tmp_path / "out", round=0, seed=0, settings=PromptSettings(path=str(path), heldout=0.3),
        prompts=Artifact.of(path), policy=Artifact.of(policy), context=300, max_tokens=20,
    )  # fmt: skip
    run_prompts(spec)
    read_offline(OfflineSettings(path=path, share=0.5, p_hat=0.9), tokenizer)
    said = [record.message for record in caplog.records if "special tokens" in record.message]
    assert len(said) == 2
    assert all(f"'<|im_start|>' at {path}:21" in line for line in said)
