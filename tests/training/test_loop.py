"""The gradient of a step: exact against single pairs in float64, and independent of micro-batches."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from storage.errors import UserError
from tasks.modeling.load import load_policy
from tasks.modeling.logprobs import TokenSequence, sequence_logprobs, summed_logprobs
from tasks.training.batching import PackedForward
from tasks.training.examples import Example
from tasks.training.groups import read_preferences
from tasks.training.label_columns import LabeledGroup, strength_shares
from tasks.training.loop import Step, WindowResult, accumulate, check_first_step, first_loss
from tasks.training.objectives.bmc import differing
from tasks.training.objectives.irepo import Irepo
from tasks.training.objectives.registry import OBJECTIVES
from tasks.training.objectives.rpo import Rpo
from tasks.training.policy import checkpoint_activations
from tasks.training.reference import Logprobs, compute, look_up
from tests.training.preference_rows import preference_rows, write_preferences

OBJECTIVE = Irepo(beta=0.5)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def window(tmp_path: Path, tiny_policy: Path) -> list[Example]:
    """Five prompts of four responses; the reference is the policy plus noise, so that log-ratios are not 0."""
    path = write_preferences(tmp_path / "p.parquet", preference_rows(prompts=5, responses=4))
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    noise = np.random.default_rng(0)
    return [
        Example(
            LabeledGroup(group),
            Logprobs(sequence_logprobs(model, rows, tokens=4096) + noise.normal(size=len(rows))),
        )
        for group in read_preferences(path).groups
        for rows in [[TokenSequence(group.prompt_ids, response) for response in group.responses]]
    ]


def gradient(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat(
        [parameter.grad.double().flatten() for parameter in model.parameters() if parameter.grad is not None]
    )


def accumulated(
    folder: Path, window: list[Example], accelerator: Accelerator, tokens: int, recompute: bool = False
) -> tuple[torch.Tensor, WindowResult]:
    model = load_policy(folder, dtype="float32", device="cpu").double()
    if recompute:
        checkpoint_activations(model)
    result = accumulate(PackedForward(model, tokens), window, OBJECTIVE, accelerator=accelerator, step=Step())
    return gradient(model), result


def test_gradient_equals_the_sum_over_single_pairs_in_float64(
    tiny_policy: Path, window: list[Example], accelerator: Accelerator
) -> None:
    model = load_policy(tiny_policy, dtype="float32", device="cpu").double()

    def logprob(prompt: np.ndarray, response: np.ndarray) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *response]], dtype=torch.long)
        logprobs = model(ids).logits[0].log_softmax(-1)
        return torch.stack([logprobs[len(prompt) + k - 1, token] for k, token in enumerate(response.tolist())]).sum()

    losses = []
    pairs = [(example.group, example.reference.sums, pair) for example in window for pair in example.group.pairs]
    for group, reference, pair in pairs:
        difference = (
            logprob(group.prompt_ids, group.responses[pair.chosen])
            - reference[pair.chosen]
            - logprob(group.prompt_ids, group.responses[pair.rejected])
            + reference[pair.rejected]
        )
        loss = (0.5 * difference - pair.label) ** 2
        (loss / len(pairs)).backward()
        losses.append(loss.item())
    expected = gradient(model)
    actual, result = accumulated(tiny_policy, window, accelerator, 8192)
    assert float(result.means["loss"]) == pytest.approx(np.mean(losses), rel=1e-6)
    assert float((actual - expected).norm() / expected.norm()) < 1e-6
    assert result.pairs == 30
    assert result.tokens == sum(len(e.group.prompt_ids) + len(r) for e in window for r in e.group.responses)


@pytest.mark.parametrize("tokens", [1, 150])
def test_micro_batches_change_nothing(
    tiny_policy: Path, window: list[Example], accelerator: Accelerator, tokens: int
) -> None:
    whole, whole_result = accumulated(tiny_policy, window, accelerator, 100_000)
    split, split_result = accumulated(tiny_policy, window, accelerator, tokens)
    assert float((whole - split).abs().max() / whole.abs().max()) < 1e-6
    for name, value in whole_result.means.items():
        assert float(split_result.means[name]) == pytest.approx(float(value), rel=1e-6, abs=1e-6)


#: Objectives that couple the pairs of a step, or read more than summed log-probabilities.
COUPLED: list[dict[str, object]] = [
    {"name": "rpo"},
    {"name": "rpo", "pairing": "unpaired"},
    {"name": "rpo", "pairing": "diagonal", "nll": 0.5},
    {"name": "beta-dpo", "drop": 0.4},
    {"name": "lcpo", "by_annotator": False},
    {"name": "lcpo", "nll": 0.1},
    {"name": "adpo"},
    {"name": "bmc"},
    {"name": "trpa", "kl": 0.5},
]


@pytest.fixture
def rich_window(window: list[Example], tiny_policy: Path) -> list[Example]:
    """The window with every column that an objective reads."""
    noise = np.random.default_rng(1)
    policy = load_policy(tiny_policy, dtype="float32", device="cpu")
    rows = compute(PackedForward(policy, 4096), [example.group for example in window], nullcontext, tokens=True)
    exact = look_up(rows, [example.group for example in window], Path("r"))
    result = []
    for example, previous in zip(window, exact, strict=True):
        group = example.group
        count = len(group.pairs)
        votes = noise.choice([0.0, 0.5, 1.0, np.nan], size=(count, 3))
        votes[:, 0] = 1.0
        weights = np.where(np.isnan(votes), 0.0, noise.choice([0.5, 1.0], size=votes.shape))
        pairs = {"votes": votes, "vote_weights": weights, "first_level": noise.choice([0.0, 1.0], size=count)}
        assert previous.tokens is not None
        shifted = [tokens + noise.normal(size=len(tokens)) / 5 for tokens in previous.tokens]
        reference = Logprobs(np.array([tokens.sum() for tokens in shifted]), shifted)
        result.append(
            Example(
                LabeledGroup(group, pairs, {"share": strength_shares(group)}),
                reference,
                previous=previous,
                embedding=noise.normal(size=8),
                differing=[differing(group.responses[p.chosen], group.responses[p.rejected]) for p in group.pairs],
            )
        )
    return result


@pytest.mark.parametrize("settings", COUPLED, ids=lambda settings: "-".join(map(str, settings.values())))
def test_any_objective_is_accumulated_exactly(
    tiny_policy: Path, rich_window: list[Example], accelerator: Accelerator, settings: dict[str, object]
) -> None:
    """One large forward and many small ones give the same gradient, loss, metrics and memory."""
    objective = OBJECTIVES.read(settings)
    step = Step(("one", "two", "three"), {}, (1, 2, 3))
    results = []
    for tokens in (100_000, 150, 1):
        model = load_policy(tiny_policy, dtype="float32", device="cpu").double()
        result = accumulate(PackedForward(model, tokens), rich_window, objective, accelerator=accelerator, step=step)
        results.append((gradient(model), result))
    (whole, first), *others = results
    assert float(whole.norm()) > 0
    for split, result in others:
        assert float((whole - split).abs().max() / whole.abs().max()) < 1e-6
        assert {k: float(v) for k, v in result.means.items()} == pytest.approx(
            {k: float(v) for k, v in first.means.items()}, rel=1e-6, abs=1e-6
        )
        assert dict(result.details) == pytest.approx(dict(first.details), rel=1e-6)
        assert dict(result.memory) == pytest.approx(dict(first.memory), rel=1e-6)


def test_gradient_of_a_coupled_objective_equals_its_formula(
    tiny_policy: Path, rich_window: list[Example], accelerator: Accelerator
) -> None:
    """RPO over all pairs of five prompts, written as a sum over pairs of pairs."""
    model = load_policy(tiny_policy, dtype="float32", device="cpu").double()
    sides = []
    for example in rich_window:
        assert example.embedding is not None
        vector = torch.from_numpy(example.embedding / np.linalg.norm(example.embedding))
        rows = [TokenSequence(example.group.prompt_ids, response) for response in example.group.responses]
        h = summed_logprobs(model, rows)[0] - torch.from_numpy(example.reference.sums)
        sides += [(vector, h[pair.chosen], h[pair.rejected]) for pair in example.group.pairs]
    total = torch.zeros((), dtype=torch.float64)
    for first, chosen, _ in sides:
        weights = torch.stack([torch.exp((first @ second - 1) / 0.5) for second, _, _ in sides])
        weights = weights / weights.sum()
        for weight, (_, _, rejected) in zip(weights, sides, strict=True):
            total = total + torch.log1p(torch.exp(-0.1 * weight * (chosen - rejected))) / len(sides) ** 2
    total.backward()
    expected = gradient(model)
    model = load_policy(tiny_policy, dtype="float32", device="cpu").double()
    objective = Rpo()
    result = accumulate(PackedForward(model, 150), rich_window, objective, accelerator=accelerator, step=Step())
    assert float(result.means["loss"]) == pytest.approx(total.item(), rel=1e-9)
    assert float((gradient(model) - expected).norm() / expected.norm()) < 1e-6


def test_recomputed_activations_give_the_same_gradient(
    tiny_policy: Path, window: list[Example], accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = accumulated(tiny_policy, window, accelerator, 8192)
    recomputed, _ = accumulated(tiny_policy, window, accelerator, 8192, recompute=True)
    assert torch.equal(plain, recomputed)
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    checkpoint_activations(model)
    forward = PackedForward(model, 8192)
    calls: list[int] = []
    layers: Any = model.base_model.layers
    for layer in layers:

        def counted(*arguments: Any, inner: Any = layer._gradient_checkpointing_func) -> Any:
            calls.append(1)
            return inner(*arguments)

        layer._gradient_checkpointing_func = counted
    accumulate(forward, window, OBJECTIVE, accelerator=accelerator, step=Step())
    assert len(calls) == len(layers)


def test_first_loss_is_the_loss_at_log_ratios_of_zero(window: list[Example]) -> None:
    squares = [pair.label**2 for example in window for pair in example.group.pairs]
    assert first_loss(OBJECTIVE, window, Step()) == pytest.approx(np.mean(squares), rel=1e-12)


def test_first_step_check_tolerates_rounding_only() -> None:
    mean_square = 14 / 3

    def result(loss: float, ratio: float) -> WindowResult:
        return WindowResult({"loss": torch.tensor(loss)}, torch.tensor(ratio), 3, 30)

    check_first_step(result(mean_square, 1e-5), mean_square, "float32")
    check_first_step(result(mean_square * 1.05, 0.05), mean_square, "bfloat16")
    for loss, ratio, dtype in [
        (mean_square * 1.001, 1e-5, "float32"),
        (mean_square, 2e-3, "float32"),
        (mean_square, float("nan"), "float32"),
        (mean_square * 1.2, 0.05, "bfloat16"),
    ]:
        with pytest.raises(UserError, match="log-probabilities differ"):
            check_first_step(result(loss, ratio), mean_square, dtype)
