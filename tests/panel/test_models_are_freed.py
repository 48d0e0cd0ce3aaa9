"""Annotators with a model load it at their first vote and free it at the end of their turn: one model at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tasks.modeling.load import load_tokenizer
from tasks.panel.annotators.implicit_reward import ImplicitRewardSettings
from tasks.panel.annotators.protocol import LocalAnnotator, Response, Score
from tasks.panel.annotators.reward_model import RewardModelSettings
from tasks.panel.voting import AnswerStore, vote
from tests.conftest import MakePolicy


def responses() -> list[Response]:
    messages = [{"role": "user", "content": "what is the sum"}]
    return [Response("p", "policy", i, messages, None, None, text, True) for i, text in enumerate(["a", "b c"])]


@pytest.fixture
def reward_model(tmp_path: Path, tiny_policy: Path) -> Path:
    tokenizer = load_tokenizer(tiny_policy)
    tokenizer.save_pretrained(tmp_path)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, pad_token_id=0)  # fmt: skip
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_reward_model_is_loaded_by_its_first_vote_and_can_vote_again(reward_model: Path) -> None:
    annotator = RewardModelSettings(path=str(reward_model), device="cpu").open("rm", seed=0)
    assert annotator._model is None
    scores = annotator.vote(responses())
    assert annotator._model is not None
    assert annotator._model.dtype == torch.float32
    annotator.close()
    assert annotator._model is None
    assert annotator.vote(responses()) == scores


def test_half_precision_is_the_default_on_a_gpu_only(reward_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.panel.annotators import reward_model as module

    monkeypatch.setattr("tasks.modeling.load.resolve_device", lambda name: "cuda:0" if name == "auto" else name)
    settings = RewardModelSettings(path=str(reward_model))
    assert module._load("rm", settings, on_meta=True).dtype == torch.bfloat16
    assert module._load("rm", RewardModelSettings(path=str(reward_model), dtype="float32"), on_meta=True).dtype == (
        torch.float32
    )


def test_implicit_rewards_free_both_policies(make_policy: MakePolicy) -> None:
    settings = ImplicitRewardSettings(policy=str(make_policy(seed=0)), reference=str(make_policy(seed=1)), device="cpu")
    annotator = settings.open("implicit", seed=0)
    models = (annotator._policy, annotator._reference)
    assert [each._model for each in models] == [None, None]
    scores = annotator.vote(responses())
    assert None not in [each._model for each in models]
    annotator.close()
    assert [each._model for each in models] == [None, None]
    assert annotator.vote(responses()) == scores


class Holder:
    """Scores, and fails where it is told to; records when it loads and frees."""

    answer_type: Literal["scores"] = "scores"
    lane: Literal["model"] = "model"
    tie_margin = 0.0

    def __init__(self, name: str, events: list[str], *, fails: bool = False) -> None:
        self.name, self._events, self._fails = name, events, fails

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        self._events.append(f"{self.name} votes")
        if self._fails:
            raise MemoryError(self.name)
        return [Score("score", float(response.index)) for response in batch]

    def close(self) -> None:
        self._events.append(f"{self.name} closes")


def run(annotators: Sequence[LocalAnnotator], tmp_path: Path) -> None:
    parts: Any = NoParts()
    vote(annotators, responses(), np.array([[0, 1]]), AnswerStore(parts, tmp_path))


class NoParts:
    """Keeps nothing."""

    def gather(self, number: int, annotator: Any, questions: Any, done: Any, stopped: Any) -> Any:
        from tasks.panel.answers import as_table

        return as_table("scores", annotator.vote(questions))


def test_one_annotator_frees_its_model_before_the_next_loads_one(tmp_path: Path) -> None:
    events: list[str] = []
    run([Holder("one", events), Holder("two", events)], tmp_path)
    assert events == ["one votes", "one closes", "two votes", "two closes"]


def test_an_annotator_that_fails_frees_its_model(tmp_path: Path) -> None:
    events: list[str] = []
    with pytest.raises(MemoryError):
        run([Holder("one", events, fails=True)], tmp_path)
    assert events == ["one votes", "one closes"]
