"""The demo's folder: its files, that they load, that a seed fixes their bytes, and that failures are heard."""

import hashlib
import sys
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.demo import build
from tasks.demo.corpus import read_rows

FILES = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def make(folder: Path, seed: int) -> Path:
    folder.mkdir()
    build.make_corpus(folder, seed)
    build.make_tokenizer(folder)
    build.train_policy(folder, seed)
    build.train_reward_models(folder, seed)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PRETRAINING_STEPS", "TUNING_STEPS", "REWARD_STEPS"):
        monkeypatch.setattr(build, name, 2)
    monkeypatch.setattr(build, "TUNING_ROWS", 1500)
    monkeypatch.setattr(build, "PRETRAINING_ROWS", 200)
    monkeypatch.setattr(build, "PAIRS", 100)


@pytest.mark.usefixtures("two_steps")
def test_a_seed_fixes_every_byte_of_a_folder_that_loads(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    first, again = make(tmp_path / "a", 0), make(tmp_path / "b", 0)
    assert digests(first) == digests(again)
    assert {path.name for path in (first / "policy").iterdir()} == FILES | {"generation_config.json"}
    names = [*(f"reward_models/{number}" for number in ("one", "two", "three")), "judge"]
    assert all({path.name for path in (first / name).iterdir()} == FILES for name in names)
    assert len({digests(first)[f"{name}/model.safetensors"] for name in names}) == 4

    tokenizer = AutoTokenizer.from_pretrained(first / "policy")
    policy = AutoModelForCausalLM.from_pretrained(first / "policy")
    assert (len(tokenizer), tokenizer.pad_token, tokenizer.eos_token) == (600, "<|pad|>", "<|end|>")
    assert policy.generation_config.eos_token_id == tokenizer.eos_token_id
    assert policy.generation_config.pad_token_id == tokenizer.pad_token_id
    question = [{"role": "user", "content": "Add 1 and 2."}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>Add 1 and 2.<|end|><|assistant|>"
    reply = [*question, {"role": "assistant", "content": "It is 3."}]
    assert tokenizer.apply_chat_template(reply, tokenize=False) == text + "It is 3.<|end|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    judge = AutoModelForSequenceClassification.from_pretrained(first / "judge")
    assert judge.config.pad_token_id == tokenizer.pad_token_id
    with torch.no_grad():
        assert judge(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits.shape == (1, 1)


def test_another_seed_draws_other_replies_to_the_same_prompts(tmp_path: Path) -> None:
    build.make_corpus(tmp_path / "0", 0)
    build.make_corpus(tmp_path / "1", 1)
    zero, one = digests(tmp_path / "0"), digests(tmp_path / "1")
    assert {name for name in zero if zero[name] != one[name]} == {"sft.jsonl"}
    assert len(read_rows(tmp_path / "0" / "sft.jsonl")) == build.TUNING_ROWS


def test_a_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        build.build_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failure_of_the_second_process_is_raised_with_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no tokenizer here >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    def run() -> None:
        with build._reward_model_process(tmp_path, 0):
            pass

    with pytest.raises(RuntimeError, match=r"(?s)reward models failed \(exit status 3\).*no tokenizer here"):
        run()
