"""The evaluate stage on hand-written inputs: every figure against a count by hand, and bytes that do not change."""

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.errors import UserError
from storage.files import canonical_json
from storage.manifest import BrokenManifest
from tasks.evaluation import divergence
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.stage import run
from tests.evaluation.conftest import Evaluation


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def prepare(evaluation: Evaluation) -> dict[str, str]:
    """Both input stages, with abstentions and errors among them; returns their digests."""
    outcomes = ["a", "a", "b", "tie", "abstain", "error", "a"]
    votes = [evaluation.vote(p, outcomes[p % 7]) for p in range(45)]
    votes += [evaluation.vote(p, "b", source="previous", judge="held-out") for p in range(45)]
    votes += [evaluation.vote(p, "error", source="previous", judge="truth") for p in range(45)]
    scores = [evaluation.score(p, None if p % 5 == 0 else p / 10) for p in range(45)]
    scores += [evaluation.score(p, 100.0, source=source) for p in range(45) for source in ("initial", "previous")]
    responses = evaluation.generate(evaluation.responses())
    return {"responses": responses, "judgements": evaluation.judge(votes, scores)}


def test_every_figure(evaluation: Evaluation) -> None:
    prepare(evaluation)
    manifest = run(evaluation.spec())
    figures = manifest.summary
    rows = evaluation.responses()

    worth = {"a": 1.0, "b": 0.0, "tie": 0.5}
    counted = [worth[o] for p in range(45) if (o := ["a", "a", "b", "tie", "", "", "a"][p % 7])]
    initial = figures["win_rate"]["initial"]["truth"]
    assert initial["mean"] == pytest.approx(mean(counted))
    assert initial["n"] == len(counted)
    assert initial["low"] < initial["mean"] < initial["high"]
    assert figures["win_rate"]["previous"] == {"held-out": {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 45}}
    assert figures["rates"]["correct"]["mean"] == pytest.approx(mean([p / 10 for p in range(45) if p % 5]))
    assert figures["rates"]["correct"]["n"] == 36
    assert figures["excluded"] == {
        "votes": {
            "initial": {"truth": {"abstain": 6, "error": 6}},
            "previous": {"held-out": {"abstain": 0, "error": 0}, "truth": {"abstain": 0, "error": 45}},
        },
        "scores": {"correct": {"abstain": 9, "error": 0}},
    }
    assert figures["tokens"] == mean([len(row["response_ids"]) for row in rows])
    assert figures["words"] == mean([len(row["text"].split()) for row in rows])
    assert figures["finish_rate"] == (90 - 15) / 90
    assert figures["unique_rate"] == 46 / 90
    assert manifest.rows == {"prompts": 45, "responses": 90, "votes": 135}


def test_kl_is_that_of_plain_forwards(evaluation: Evaluation) -> None:
    prepare(evaluation)
    figures = run(evaluation.spec()).summary
    policy, initial = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        for folder in (evaluation.policy, evaluation.initial)
    )
    ratios, tokens = [], 0
    for row in evaluation.responses():
        ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
        start = len(row["prompt_ids"])
        with torch.no_grad():
            logprobs = [model(input_ids=ids).logits[0].log_softmax(-1) for model in (policy, initial)]
        ratios.append(sum((logprobs[0] - logprobs[1])[t - 1, ids[0, t]].item() for t in range(start, ids.shape[1])))
        tokens += len(row["response_ids"])
    assert figures["kl"]["mean"] == pytest.approx(mean(ratios), abs=1e-4)
    assert figures["kl"]["per_token"] == pytest.approx(sum(ratios) / tokens, abs=1e-4)
    by_prompt = torch.tensor(ratios).view(45, 2).mean(1)
    assert figures["kl"]["se"] == pytest.approx((by_prompt.std() / 45**0.5).item(), rel=1e-4)
    assert max(map(abs, ratios)) > 0.5  # the two policies do differ


def test_round_0_has_no_rivals_and_loads_no_model(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(divergence, "load_policy", refuse)
    evaluation.generate(evaluation.responses())
    evaluation.judge(scores=[evaluation.score(p, 1.0) for p in range(45)])
    figures = run(evaluation.spec(policy=evaluation.initial)).summary
    assert figures["win_rate"] == {}
    assert figures["kl"] == {"mean": 0.0, "se": 0.0, "per_token": 0.0}
    assert figures["rates"]["correct"]["mean"] == 1.0
    assert figures["excluded"] == {"votes": {}, "scores": {"correct": {"abstain": 0, "error": 0}}}


def test_same_bytes_when_done_again(evaluation: Evaluation) -> None:
    prepare(evaluation)
    first, again = run(evaluation.spec("one")), run(evaluation.spec("two"))
    assert first.content == again.content
    for name in ("metrics.json", "samples.json"):
        assert (evaluation.root / "one" / name).read_bytes() == (evaluation.root / "two" / name).read_bytes()
    text = (evaluation.root / "one" / "metrics.json").read_text()
    assert text == canonical_json(json.loads(text)) + "\n"
    assert Metrics.model_validate_json(text).model_dump(mode="json") == first.summary
    other = run(evaluation.spec("three", seed=8))
    assert other.summary["win_rate"]["initial"] != first.summary["win_rate"]["initial"]


def test_samples_are_first_replies_of_every_kth_prompt(evaluation: Evaluation) -> None:
    evaluation.generate(list(reversed(evaluation.responses())))
    evaluation.judge()
    run(evaluation.spec())
    samples = json.loads((evaluation.root / "evaluate" / "samples.json").read_text())
    assert [sample["prompt_id"] for sample in samples] == [f"p{p:03d}" for p in range(44, -1, -3)]
    assert {sample["reply"] for sample in samples} == {"the same"}  # response 0, though response 1 comes first
    tokenizer = AutoTokenizer.from_pretrained(evaluation.policy)
    assert samples[0]["prompt"] == tokenizer.decode([1, 54, 11, 2], skip_special_tokens=True)
    assert "<|im_end|>" not in samples[0]["prompt"]


def test_tempered_replies_are_warned_of(evaluation: Evaluation, caplog: pytest.LogCaptureFixture) -> None:
    evaluation.generate(evaluation.responses(), temperature=0.7)
    evaluation.judge()
    with caplog.at_level(logging.WARNING, logger="irepo"):
        run(evaluation.spec())
    assert "sampled with temperature 0.7:" in caplog.text


def test_other_source_a_is_refused(evaluation: Evaluation) -> None:
    evaluation.generate(evaluation.responses())
    evaluation.judge(votes=[evaluation.vote(0, "a") | {"source_a": "initial", "source_b": "policy"}])
    with pytest.raises(ValueError, match=r"votes.parquet: source_a is \['initial'\], expected 'policy'"):
        run(evaluation.spec())


def test_altered_input_is_refused_by_name(evaluation: Evaluation) -> None:
    prepare(evaluation)
    path: Path = evaluation.root / "judgements" / "votes.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BrokenManifest, match=r"votes\.parquet has \d+ bytes"):
        run(evaluation.spec())
    assert not (evaluation.root / "evaluate" / "manifest.json").exists()


def test_an_input_that_was_made_again_is_refused(evaluation: Evaluation) -> None:
    prepare(evaluation)
    spec = evaluation.spec()
    (spec.judgements.path / "manifest.json").unlink()
    evaluation.judge(votes=[evaluation.vote(0, "a")])
    with pytest.raises(UserError, match="was made again") as refusal:
        run(spec)
    assert refusal.value.where.endswith("judgements")
    assert run(evaluation.spec()).rows["votes"] == 1


def test_nothing_to_evaluate_is_refused(evaluation: Evaluation) -> None:
    evaluation.generate([])
    evaluation.judge()
    with pytest.raises(UserError, match="there are no responses"):
        run(evaluation.spec())
