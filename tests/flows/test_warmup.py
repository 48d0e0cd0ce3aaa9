"""The warm-up's words, and a policy that is tuned on a file of conversations."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from flows.warmup import read_config, tune
from storage.errors import UserError


def test_one_epoch_unless_told() -> None:
    words = ["policy=a", "data=b", "out=c", "training.learning_rate=1e-4"]
    assert read_config(words).training.epochs == 1
    assert read_config([*words, "training.steps=5"]).training.epochs is None


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["policy=a"], "data, out missing"),
        (["showcase=demo", "sed=1"], "sed"),
        (["policy=a", "data=b", "out=c", "training.rate=1"], "training.rate"),
    ],
)
def test_mistakes_are_named(words: list[str], what: str) -> None:
    with pytest.raises(UserError, match=what):
        read_config(words)


def test_a_policy_without_chat_template_is_given_one(tiny_policy: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {i}", "completion": str(i)} for i in range(8)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_policy.iterdir():
        if path.name != "chat_template.jinja":
            (base / path.name).write_bytes(path.read_bytes())
    words = [f"policy={base}", f"data={data}", f"out={tmp_path / 'out'}", "training.batch_size=4"]
    with pytest.raises(UserError, match="no chat template"):
        tune.fn(read_config(words))
    tune.fn(read_config([*words, "chat_template=conf/templates/turns.jinja"]))
    assert "eos_token" in (tmp_path / "out" / "chat_template.jinja").read_text()
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
