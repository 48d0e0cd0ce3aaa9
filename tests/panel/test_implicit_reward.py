"""The implicit reward of two tiny policies against float64 forwards of single conversations."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from storage.errors import UserError
from tasks.labeling.settings import LabelSettings, LabelSpec
from tasks.labeling.stage import run
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import load_policy, load_tokenizer
from tasks.panel.annotators.implicit_reward import ImplicitReward
from tasks.panel.annotators.protocol import Response
from tasks.panel.annotators.registry import open_annotators
from tests.conftest import MakePolicy
from tests.panel.conftest import World

TEXTS = ["short", "a rather longer reply is better", "", "the sum of the numbers", "a " * 30]


def responses(ended: bool = True) -> list[Response]:
    messages = [{"role": "user", "content": "what is the sum"}]
    return [Response("p", "policy", i, messages, None, None, text, ended) for i, text in enumerate(TEXTS)]


def opened(policies: dict[str, Path], **settings: object) -> ImplicitReward:
    words: dict[str, object] = {"kind": "implicit_reward", "policy": "policy", "reference": "initial", "device": "cpu"}
    annotators = LabelSettings.model_validate({"annotators": {"it": words | settings}}).annotators
    (annotator,) = open_annotators(annotators, 1, policies)
    assert isinstance(annotator, ImplicitReward)
    return annotator


def logprob(folder: Path, text: str, ended: bool) -> float:
    model, tokenizer = load_policy(folder, dtype="float32", device="cpu").double(), load_tokenizer(folder)
    prompt = encode_chat(tokenizer, [{"role": "user", "content": "what is the sum"}])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * ended
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    return float(sum(logits[len(prompt) + i - 1, token].item() for i, token in enumerate(ids)))


@pytest.mark.parametrize("ended", [True, False])
def test_is_the_difference_of_log_probabilities(make_policy: MakePolicy, ended: bool) -> None:
    policy, initial = make_policy(seed=1), make_policy(seed=0)
    annotator = opened({"policy": policy, "initial": initial}, beta=0.5, length_penalty=0.003, batch_tokens=150)
    scores = annotator.vote(responses(ended))
    for text, score in zip(TEXTS, scores, strict=True):
        if not text and not ended:
            assert (score.outcome, score.raw) == ("error", "the response has no tokens")
            continue
        wanted = 0.5 * (logprob(policy, text, ended) - logprob(initial, text, ended)) - 0.003 * len(text)
        assert score.value == pytest.approx(wanted, abs=1e-4)
    assert annotator.vote(responses(ended)) == scores


def test_a_policy_has_no_reward_over_itself(tiny_policy: Path) -> None:
    scores = opened({"policy": tiny_policy, "initial": tiny_policy}).vote(responses())
    assert [score.value for score in scores] == [0.0] * len(TEXTS)


def test_dice_length_penalty(monkeypatch: pytest.MonkeyPatch, tiny_policy: Path) -> None:
    """h = .7, 120 characters, alpha = .003 -> .34 (methods of arXiv 2406.09760)."""
    annotator = opened({"policy": tiny_policy, "initial": tiny_policy}, length_penalty=0.003)
    monkeypatch.setattr(annotator._policy, "logprobs", lambda batch: [-10.0])
    monkeypatch.setattr(annotator._reference, "logprobs", lambda batch: [-10.7])
    (score,) = annotator.vote([Response("p", "s", 0, [], None, None, "x" * 120, True)])
    assert score.value == pytest.approx(0.34)


def test_what_is_too_long_is_an_error(tiny_policy: Path) -> None:
    messages = [{"role": "user", "content": "x" * 300}]
    (score,) = opened({"policy": tiny_policy, "initial": tiny_policy}).vote(
        [Response("p", "s", 0, messages, None, None, "x", True)]
    )
    assert score.outcome == "error"
    assert "the policy reads at most 256" in (score.raw or "")


def test_policies_that_are_not_there(tiny_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no policy called 'initial'"):
        opened({"policy": tiny_policy})
    with pytest.raises(UserError, match=r"config\.json is missing"):
        opened({"policy": tiny_policy}, reference=str(tmp_path))


def test_in_a_stage_the_words_are_the_runs_policies(world: World, make_policy: MakePolicy) -> None:
    settings = {"kind": "implicit_reward", "policy": "policy", "reference": "previous", "device": "cpu"}
    spec = LabelSpec(
        **dict(world.spec({"p": ["short", "a kind reply"]}, {"implicit": settings}))
        | {"policies": {"policy": make_policy(seed=1), "previous": make_policy(seed=0)}}
    )
    assert sum(run(spec).summary["votes"]["implicit"].values()) == 1
    scores = pq.read_table(spec.folder / "scores.parquet")["score"].to_pylist()
    ask = [{"role": "user", "content": "ask p"}]
    batch = [Response("p", "s", i, ask, None, None, text, True) for i, text in enumerate(("short", "a kind reply"))]
    again = opened({"policy": make_policy(seed=1), "initial": make_policy(seed=0)}).vote(batch)
    assert scores == pytest.approx([score.value for score in again])
