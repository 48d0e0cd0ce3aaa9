"""Supervised tuning and reward models on templates of many families: the ids of conversations rendered once."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from storage.errors import UserError
from tasks.modeling.load import load_tokenizer
from tasks.panel.annotators.protocol import Response
from tasks.panel.annotators.reward_model import RewardModelSettings
from tasks.training.conversations import encode, encode_rows
from tasks.training.reward_model import RewardTrainingSettings, encode_scored, fit_reward_model, scores
from tasks.training.supervised import SupervisedSettings, fine_tune
from tests.modeling.families import CHATML, families

FIRST = [{"role": "user", "content": "What is the sum ?"}, {"role": "assistant", "content": "I am not sure ."}]
SECOND = [*FIRST, {"role": "user", "content": "Is it 7 ?"}, {"role": "assistant", "content": "The sum is 7 ."}]


def rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, prompt: bool = False) -> list[int]:
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def through_end(ids: list[int], start: int, end: int) -> list[int]:
    """`ids` up to the first `end` at or after `start`."""
    return ids[: ids.index(end, start) + 1]


@pytest.mark.parametrize("name", families())
def test_every_reply_is_trained_as_it_is_sampled(name: str) -> None:
    family = families()[name]
    tokenizer = family.tokenizer()
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert isinstance(end, int)
    wanted = []
    for conversation in (FIRST, SECOND):
        start = len(rendered(tokenizer, conversation[:-1], prompt=True))
        ids = through_end(rendered(tokenizer, conversation), start, end)
        wanted.append((ids, start))
    sequences = encode_rows(tokenizer, [{"messages": SECOND}], 256)
    trained = [(sequence.ids[: stop + 1], start) for sequence in sequences for start, stop in spans(sequence.trained)]
    assert sorted(trained) == sorted(wanted)
    assert sequences[0].ids == wanted[1][0]
    assert len(sequences) == (2 if name == "thinking" else 1)


def spans(trained: list[bool]) -> list[tuple[int, int]]:
    """First and last position of each stretch of trained tokens."""
    edges = [0, *map(int, trained), 0]
    starts = [i for i in range(len(trained)) if edges[i + 1] > edges[i]]
    stops = [i for i in range(len(trained)) if edges[i + 1] > edges[i + 2]]
    return list(zip(starts, stops, strict=True))


def test_a_row_that_cannot_be_used_is_named() -> None:
    tokenizer = families()["Gemma"].tokenizer()
    system = {"messages": [{"role": "system", "content": "Be brief ."}, *FIRST]}
    with pytest.raises(UserError, match="System role not supported") as refusal:
        encode_rows(tokenizer, [{"messages": FIRST}, system], 256, ["chats.jsonl:1", "chats.jsonl:2"])
    assert refusal.value.where == "chats.jsonl:2"
    with pytest.raises(UserError, match="content is not text") as refusal:
        encode_rows(tokenizer, [{"prompt": "a", "completion": [{"role": "assistant", "content": None}]}], 256)
    assert refusal.value.where == "supervised rows, row 1"


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy with ChatML on a tokenizer whose eos_token ends no turn, and which pads with it."""
    return save_policy(tmp_path_factory.mktemp("chatml"), "ChatML, base eos")


def save_policy(folder: Path, name: str) -> Path:
    tokenizer = families()[name].tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, initializer_range=0.3, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_tuned_policy_names_the_token_that_ends_its_turns(chatml: Path, tmp_path: Path) -> None:
    fine_tune(chatml, [{"messages": FIRST}], tmp_path / "tuned", SupervisedSettings(steps=1), device="cpu")
    tokenizer = load_tokenizer(tmp_path / "tuned")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "tuned")
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


@pytest.mark.parametrize("name", families())
def test_a_reward_model_reads_the_whole_conversation(name: str) -> None:
    tokenizer = families()[name].tokenizer()
    assert encode_scored(tokenizer, SECOND[:-1], SECOND[-1]["content"]) == rendered(tokenizer, SECOND)
    assert encode_scored(tokenizer, FIRST[0]["content"], FIRST[1]["content"]) == rendered(tokenizer, FIRST)


@pytest.mark.parametrize("name", ["ChatML, base eos", "Phi-3"])
def test_the_panel_scores_as_fitted(tmp_path: Path, name: str) -> None:
    """Phi-3 ends conversations with its pad token: another one is used, or the score would be read before the end."""
    policy = save_policy(tmp_path / "policy", name)
    pairs = [{"prompt": "What is the sum ?", "chosen": f"It is {i} .", "rejected": "I am not sure ."} for i in range(8)]
    settings = RewardTrainingSettings(steps=4, learning_rate=3e-3, batch_size=4)
    fit_reward_model(policy, pairs, tmp_path / "fitted", settings, device="cpu")
    annotator = RewardModelSettings(path=str(tmp_path / "fitted"), device="cpu").open("rm", seed=0)
    question = [{"role": "user", "content": "What is the sum ?"}]
    batch = [Response("p", "s", i, question, None, None, pair["chosen"], True) for i, pair in enumerate(pairs)]
    seen = [score.value for score in annotator.vote([*batch, *batch[:1]])]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fitted"), load_tokenizer(policy)
    rows = [rendered(tokenizer, [*question, {"role": "assistant", "content": pair["chosen"]}]) for pair in pairs]
    with torch.no_grad():
        together = scores(model, rows).tolist()
        alone = [model.score(model.model(torch.tensor([row])).last_hidden_state[0, -1]).item() for row in rows]
    assert seen[:8] == pytest.approx(alone, abs=1e-5)
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(seen)) == 8


def test_a_turn_that_only_the_last_rendering_tells_apart_is_refused() -> None:
    tokenizer = families()["ChatML"].tokenizer()
    tokenizer.chat_template = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    with pytest.raises(UserError, match="is not its beginning"):
        encode(tokenizer, {"messages": FIRST})
