"""The evaluate stage beyond win rates: lengths, categories, judges compared with the truth, held-out pairs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.evaluation.settings import ImplicitReward, MetricsSettings
from tasks.evaluation.stage import run
from tests.conftest import MakePolicy
from tests.evaluation.conftest import Evaluation, Rows


def logprobs(folder: Path, rows: Rows) -> list[float]:
    """Of each row's response, by a plain float64 forward of that row alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    sums = []
    for row in rows:
        ids, start = torch.tensor([row["prompt_ids"] + row["response_ids"]]), len(row["prompt_ids"])
        with torch.no_grad():
            steps = model(input_ids=ids).logits[0].log_softmax(-1)
        sums.append(float(sum(steps[t - 1, ids[0, t]].item() for t in range(start, ids.shape[1]))))
    return sums


def test_lengths_categories_and_the_truth(evaluation: Evaluation) -> None:
    """Two judges, one of which votes for the longer reply; prompts of two categories and one of none."""
    evaluation.generate(evaluation.responses())
    replies = [
        evaluation.response(p, i, text="x" * (8 if p % 2 else 14), ids=[5, 2]) for p in range(45) for i in (0, 1)
    ]
    folder = evaluation.rival("initial-responses", replies)  # the policy's first reply has 8 characters
    votes = [evaluation.vote(p, "tie" if p % 2 else "b", judge="length") for p in range(45)]
    votes += [evaluation.vote(p, "b" if p % 3 else "a", judge="truth") for p in range(44)]
    scores = [evaluation.score(p, float(p % 2)) for p in range(45)]
    evaluation.judge(votes, scores)
    prompts = evaluation.prompts(lambda p: None if p == 44 else ("even", "odd")[p % 2])
    settings = MetricsSettings(bootstrap=200, divergence_tokens=256, device="cpu", truth="truth")
    spec = evaluation.spec(rivals={"initial": folder}, prompts=prompts, settings=settings)
    figures = run(spec).summary

    effect = figures["length"]["initial"]["length"]
    assert effect["delta"] == pytest.approx(-6 * 23 / 45)
    assert [(at, count) for at, _, count in effect["bins"]] == [(-6.0, 23), (0.0, 22)]
    assert [won for _, won, _ in effect["bins"]] == [0.0, 0.5]
    assert effect["controlled"]["mean"] > figures["win_rate"]["initial"]["length"]["mean"]  # it lost by its length
    assert effect["slope"]["low"] > 0

    gap = figures["gap"]["initial"]
    assert list(gap) == ["length"]
    truth = {p: 0.0 if p % 3 else 1.0 for p in range(44)}
    judged = {p: 0.5 if p % 2 else 0.0 for p in range(44)}
    assert gap["length"]["difference"]["mean"] == pytest.approx(sum(judged[p] - truth[p] for p in judged) / 44)
    assert gap["length"]["agreement"]["mean"] == pytest.approx(sum(judged[p] == truth[p] for p in judged) / 44)

    assert {name: category["prompts"] for name, category in figures["categories"].items()} == {"even": 22, "odd": 22}
    assert figures["categories"]["odd"]["win_rate"]["initial"]["length"]["mean"] == 0.5
    assert figures["categories"]["even"]["win_rate"]["initial"]["length"]["mean"] == 0.0
    assert figures["categories"]["odd"]["rates"]["correct"]["mean"] == 1.0
    means = {name: interval["mean"] for name, interval in figures["replies"].items()}
    assert means["tokens"] == figures["tokens"]
    assert means["finished"] == figures["finish_rate"]
    assert means["unique"] == figures["unique_rate"]


def test_pairs_are_followed_from_the_initial_policy_on(evaluation: Evaluation, make_policy: MakePolicy) -> None:
    """Round 0, round 1 from it and round 2 from round 1, each with its own policy; margins by plain forwards."""
    rows = evaluation.responses()
    evaluation.generate(rows)
    evaluation.judge()
    pairs = evaluation.pairs(lambda p: 0.5 if p == 0 else 0.6 + p / 200, rows)
    plain = {"bootstrap": 200, "divergence_tokens": 256, "device": "cpu"}
    first = evaluation.spec(
        "zero", policy=evaluation.initial, pairs=pairs,
        settings=MetricsSettings(**plain),
    )  # fmt: skip
    zero = run(first)
    assert zero.summary["calibration"] is None
    assert zero.summary["kl"]["mean"] == 0

    def later(name: str, policy: Path, previous: Path, scale: float, reference: Any) -> dict[str, Any]:
        margin = ImplicitReward(scale=scale, reference=reference)
        spec = evaluation.spec(
            name, policy=policy, pairs=pairs, evaluations={"initial": first.folder, "previous": previous},
            settings=MetricsSettings(**plain, margin=margin),
        )  # fmt: skip
        summary: dict[str, Any] = run(spec).summary
        return summary

    one = later("one", evaluation.policy, first.folder, 0.5, "previous")
    assert one["displacement"]["chosen_initial"] == one["displacement"]["chosen_round"]
    third = make_policy(seed=2)
    two = later("two", third, evaluation.root / "one", 0.5, "previous")
    fixed = later("fixed", third, evaluation.root / "one", 0.5, "initial")

    policies = {"initial": evaluation.initial, "one": evaluation.policy, "two": third}
    sums = {name: logprobs(folder, rows) for name, folder in policies.items()}
    of_prompt = [rows[i]["prompt_id"] for i in range(0, 90, 2)]
    assert of_prompt == [f"p{p:03d}" for p in range(45)]
    chosen, rejected = ({name: torch.tensor(values[start::2]) for name, values in sums.items()} for start in (1, 0))
    decided = slice(1, None)  # the panel is even on prompt 0
    moved = (chosen["two"] - chosen["initial"])[decided].mean().item()
    assert two["displacement"]["chosen_initial"]["mean"] == pytest.approx(moved, abs=1e-3)
    moved = (rejected["two"] - rejected["one"])[decided].mean().item()
    assert two["displacement"]["rejected_round"]["mean"] == pytest.approx(moved, abs=1e-3)
    for figures, reference in ((two, "one"), (fixed, "initial")):
        margins = (chosen["two"] - chosen[reference]) - (rejected["two"] - rejected[reference])
        right = (margins > 0)[decided].float().mean().item()
        assert figures["calibration"]["accuracy"]["mean"] == pytest.approx(right)
        confidence = torch.sigmoid(0.5 * margins.abs())
        weighted = sum(at * count for at, _, count in figures["calibration"]["bins"]) / 45
        assert weighted == pytest.approx(confidence.mean().item(), abs=1e-3)


def test_an_evaluation_that_lacks_replies_is_refused(evaluation: Evaluation) -> None:
    evaluation.generate(evaluation.responses())
    evaluation.judge()
    run(evaluation.spec("zero", policy=evaluation.initial))
    pairs = evaluation.pairs(lambda p: 0.9, evaluation.responses())
    with pytest.raises(ValueError, match=r"zero has no pair-logprobs\.parquet"):
        run(evaluation.spec(pairs=pairs, evaluations={"initial": evaluation.root / "zero"}))
