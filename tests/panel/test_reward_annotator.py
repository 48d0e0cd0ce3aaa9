"""Reward models: tiny random classifiers, batched scores against one conversation at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from storage.errors import UserError
from tasks.labeling.settings import LabelSettings
from tasks.panel.annotators.protocol import LocalAnnotator, Response, Score, is_remote
from tasks.panel.annotators.registry import open_annotators

Build = Callable[..., Path]

TEXTS = ["short", "a rather longer reply is better", "kind", "a " * 30, "", "the sum of the numbers"]


def responses(texts: Sequence[str] = TEXTS) -> list[Response]:
    messages = [{"role": "user", "content": "what is the sum"}]
    return [Response("p", "policy", i, messages, None, None, text, True) for i, text in enumerate(texts)]


def open_model(folder: Path, **settings: object) -> LocalAnnotator:
    fields: dict[str, object] = {"kind": "reward_model", "path": str(folder), "device": "cpu"}
    annotators = {"rm": fields | settings}
    (opened,) = open_annotators(LabelSettings.model_validate({"annotators": annotators}).annotators, 1)
    assert not is_remote(opened)
    return opened


def scores_of(model: LocalAnnotator, batch: Sequence[Response]) -> list[Score]:
    answers = model.vote(batch)
    assert all(isinstance(answer, Score) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Score)]


def small(vocabulary: int, pad: int | None, labels: int = 1) -> LlamaConfig:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        pad_token_id=pad,
        bos_token_id=None,
    )
    config.num_labels = labels
    return config


@pytest.fixture
def build(tmp_path: Path, tiny_policy: Path) -> Build:
    """Saves a classifier with pad token `pad` and the tiny policy's tokenizer, with or without its chat template."""

    def make(*, pad: str | None, template: bool = True, labels: int = 1, kind: str = "llama") -> Path:
        tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
        # Starts every text with a token of its own, as many do: a chat template brings its own start.
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>"))]
        )
        if not template:
            tokenizer.chat_template = None
        tokenizer.save_pretrained(tmp_path)
        pad_id = None if pad is None else tokenizer.get_vocab()[pad]
        torch.manual_seed(3)
        if kind == "bert":
            config = BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=128,
                initializer_range=0.3,
                pad_token_id=pad_id,
            )
            config.num_labels = labels
            BertForSequenceClassification(config).save_pretrained(tmp_path)
        elif kind == "language_model":
            LlamaForCausalLM(small(len(tokenizer), pad_id, 1)).save_pretrained(tmp_path)
        else:
            LlamaForSequenceClassification(small(len(tokenizer), pad_id, labels)).save_pretrained(tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("pad", "kind"), [("<|endoftext|>", "llama"), (None, "llama"), ("<|im_end|>", "llama"), ("<|endoftext|>", "bert")]
)
@pytest.mark.parametrize("template", [True, False])
def test_batched_scores_are_those_of_single_conversations(
    build: Build, pad: str | None, kind: str, template: bool
) -> None:
    """Also without a pad token, and with the end token as pad: the score is read where the library reads it."""
    folder = build(pad=pad, kind=kind, template=template)
    scores = scores_of(open_model(folder, batch_tokens=200), responses())
    cls = BertForSequenceClassification if kind == "bert" else LlamaForSequenceClassification
    model: PreTrainedModel = cls.from_pretrained(folder)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, score in zip(TEXTS, scores, strict=True):
        plain = f"what is the sum\n\n{text}"
        chat = f"<|im_start|>user\nwhat is the sum<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>\n"
        ids = tokenizer(chat if template else plain, add_special_tokens=not template, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            wanted = model(input_ids=ids).logits.item()
        assert score.outcome == "score"
        assert score.value == pytest.approx(wanted, abs=2e-5)
    assert len({round(score.value, 4) for score in scores if score.value is not None}) == len(TEXTS)


def test_equal_batches_give_equal_scores(build: Build) -> None:
    folder = build(pad="<|endoftext|>")
    assert open_model(folder).vote(responses()) == open_model(folder).vote(responses())


def test_equal_conversations_tie_exactly_whatever_they_are_batched_with(build: Build) -> None:
    """Alone, rows of other lengths beside them would change their last digits."""
    texts = ["kind", *("a " * count for count in range(1, 40)), "kind"]
    for tokens in (16384, 100, 1):
        scores = scores_of(open_model(build(pad="<|endoftext|>"), batch_tokens=tokens), responses(texts))
        assert scores[0] == scores[-1]
        assert scores[0].value != scores[1].value


def test_what_is_too_long_is_an_error(build: Build) -> None:
    scores = scores_of(open_model(build(pad="<|endoftext|>")), responses(["fine", "a b c " * 100]))
    assert [score.outcome for score in scores] == ["score", "error"]
    assert "the reward model reads at most 128" in (scores[1].raw or "")


def test_a_template_that_refuses_is_an_error(build: Build) -> None:
    folder = build(pad="<|endoftext|>")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system turns') }}")
    (score,) = scores_of(open_model(folder), responses(["x"]))
    assert (score.outcome, score.value) == ("error", None)
    assert "no system turns" in (score.raw or "")


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"labels": 2}, "has 2 labels"),
        ({"kind": "language_model"}, r"weights are missing in .*: \['score.weight'\]"),
    ],
)
def test_what_is_no_reward_model_is_refused(build: Build, changed: dict[str, object], wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        open_model(build(pad="<|endoftext|>", **changed))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load a reward model"):
        open_model(tmp_path / "nothing")
