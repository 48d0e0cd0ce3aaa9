"""Implicit rewards and offline pairs on templates of many families, against plain forwards of whole conversations."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from storage.errors import UserError
from tasks.mixing.offline import OfflineSettings, read_offline
from tasks.modeling.load import load_tokenizer
from tasks.panel.annotators.implicit_reward import ImplicitRewardSettings
from tasks.panel.annotators.judge import JudgeSettings
from tasks.panel.annotators.protocol import Response
from tasks.panel.annotators.reward_model import RewardModelSettings
from tests.modeling.families import families

ASKED = [{"role": "user", "content": "What is the sum ?"}]
CHOSEN, REJECTED = "The sum is 7 .", "I am not sure ."


def of_conversation(tokenizer: PreTrainedTokenizerFast, reply: str, end: str) -> tuple[list[int], list[int]]:
    """(prompt ids, reply ids) in the conversation rendered once, up to the token that ends the turn."""
    prompt = str(tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True))
    text = str(tokenizer.apply_chat_template([*ASKED, {"role": "assistant", "content": reply}], tokenize=False))
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[:start], ids[start : ids.index(tokenizer.convert_tokens_to_ids(end), start) + 1]


@pytest.mark.parametrize("name", families())
def test_offline_pairs_are_what_the_template_writes(tmp_path: Path, name: str) -> None:
    family = families()[name]
    tokenizer = family.tokenizer()
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": ASKED[0]["content"], "chosen": CHOSEN, "rejected": REJECTED}) + "\n")
    (pair,) = read_offline(OfflineSettings(path=path, share=0.5, p_hat=0.9), tokenizer).to_pylist()
    for side, reply in (("chosen", CHOSEN), ("rejected", REJECTED)):
        assert (pair["prompt_ids"], pair[f"{side}_ids"]) == of_conversation(tokenizer, reply, family.end)


def test_an_offline_pair_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    pair = {"prompt": ASKED, "chosen": CHOSEN, "rejected": REJECTED}
    refused = pair | {"prompt": [{"role": "system", "content": "Be brief ."}, *ASKED]}
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair) + "\n" + json.dumps(refused) + "\n")
    with pytest.raises(UserError, match="System role not supported") as refusal:
        read_offline(OfflineSettings(path=path, share=0.5, p_hat=0.9), families()["Gemma"].tokenizer())
    assert refusal.value.where == f"{path}:2"


def save_policy(folder: Path, name: str, seed: int) -> Path:
    tokenizer = families()[name].tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, initializer_range=0.3, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["Gemma", "Phi-3", "thinking", "dummy blank after a newline"])
def test_an_implicit_reward_is_that_of_the_conversation(tmp_path: Path, name: str) -> None:
    folders = [save_policy(tmp_path / role, name, seed) for seed, role in enumerate(("policy", "reference"))]
    settings = ImplicitRewardSettings(policy=str(folders[0]), reference=str(folders[1]), beta=0.5, device="cpu")
    annotator = settings.open("implicit", seed=0)
    (score,) = annotator.vote([Response("p", "s", 0, ASKED, None, None, CHOSEN, True)])
    tokenizer = load_tokenizer(folders[0])
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    prompt, reply = of_conversation(tokenizer, CHOSEN, families()[name].end)
    sums = []
    for folder in folders:
        model = LlamaForCausalLM.from_pretrained(folder).double()
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
        sums.append(sum(logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(reply)))
    assert score.value == pytest.approx(0.5 * (sums[0] - sums[1]), abs=1e-4)


def test_half_a_thought_has_no_implicit_reward(tmp_path: Path) -> None:
    """The template would write an empty thought before it."""
    folder = str(save_policy(tmp_path / "policy", "thinking", 0))
    annotator = ImplicitRewardSettings(policy=folder, reference=folder, device="cpu").open("implicit", seed=0)
    thought = Response("p", "s", 0, ASKED, None, None, "", False, reasoning="<think>\nI am not")
    (score,) = annotator.vote([thought])
    assert (score.outcome, score.value) == ("error", None)
    assert "cut off in its thought" in str(score.raw)


def test_arguments_reach_the_template_of_an_annotator(tmp_path: Path) -> None:
    """Without thoughts the prompt ends with an empty one, and the reply is its text alone."""
    folders = [str(save_policy(tmp_path / role, "thinking", seed)) for seed, role in enumerate(("policy", "reference"))]
    words = {"policy": folders[0], "reference": folders[1], "device": "cpu"}
    plain, fixed = (
        ImplicitRewardSettings.model_validate(words | more).open("implicit", seed=0)
        for more in ({}, {"template_arguments": {"enable_thinking": False}})
    )
    batch = [Response("p", "s", 0, ASKED, None, None, CHOSEN, True)]
    assert plain.vote(batch)[0].value != pytest.approx(fixed.vote(batch)[0].value, abs=1e-3)
    mistyped = {"template_arguments": {"enable_thinkin": 1}}
    with pytest.raises(UserError, match="no argument 'enable_thinkin'"):
        ImplicitRewardSettings.model_validate(words | mistyped).open("it", seed=0)
    config = Path(folders[0]) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_labels": 1}))  # as a reward model has
    for settings in (
        ImplicitRewardSettings.model_validate(words | mistyped),
        RewardModelSettings.model_validate({"path": folders[0]} | mistyped),
        JudgeSettings.model_validate({"backend": "vllm", "model": folders[0]} | mistyped),
    ):
        with pytest.raises(UserError, match="no argument 'enable_thinkin'") as refusal:
            settings.check("it")
        assert refusal.value.where == "annotators.it.template_arguments"
    with pytest.raises(ValidationError, match="backend=endpoint does not use template_arguments"):
        JudgeSettings.model_validate({"model": "m"} | mistyped)
