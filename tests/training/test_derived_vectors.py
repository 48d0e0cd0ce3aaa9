"""Losses against vectors derived from the papers' formulas apart from the code (tests/training/derived_vectors.py)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.errors import UserError
from tasks.training.groups import read_preferences
from tasks.training.label_columns import add_label_columns
from tasks.training.objectives.bvpo import bvpo
from tasks.training.objectives.c_rlft import c_rlft
from tasks.training.objectives.check import RunSetup, check_objective
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.irepo import irepo, precision
from tasks.training.objectives.nash_md import nash_md
from tasks.training.objectives.registry import OBJECTIVES
from tasks.training.objectives.spo import spo
from tests.training.conftest import MakeSpec
from tests.training.derived_vectors import POINTS, nash_md_policy_gradient, vectors


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _bvpo(x: Tensor) -> Tensor:
    return bvpo(dpo(x[0::2], x[1::2], beta=0.1), column(0, 0, 1), alpha=0.3).mean()


OURS: dict[str, Callable[[Tensor], Tensor]] = {
    "nash-md": lambda x: nash_md(x, column(0.8), beta=0.1).sum(),
    "bvpo": _bvpo,
    "c-rlft": lambda x: c_rlft(x, column(1, 0), worse=0.1).mean(),
    "irepo precision": lambda x: (
        irepo(x[:1], x[1:], column(1.0986122886681098), beta=0.1) * precision(column(0.75))
    ).sum(),
    "spo": lambda x: spo(dpo(x[:1], x[1:2], beta=0.1), x[2:3], x[3:], gamma=0.3).sum(),
}


@pytest.mark.parametrize("name", POINTS)
def test_value_and_slopes_are_the_derived_ones(name: str) -> None:
    value, slopes = vectors()[name]
    x = torch.tensor(POINTS[name][1], dtype=torch.float64, requires_grad=True)
    loss = OURS[name](x)
    torch.autograd.backward(loss)
    assert x.grad is not None
    assert loss.item() == pytest.approx(value, abs=1e-12)
    assert x.grad.tolist() == pytest.approx(slopes, abs=1e-12)


@pytest.mark.parametrize(("h", "probability", "beta"), [(1.0, 0.8, 0.1), (-3.0, 0.2, 0.5), (0.0, 0.5, 0.01)])
def test_nash_md_has_the_papers_policy_gradient(h: float, probability: float, beta: float) -> None:
    x = torch.tensor([h], dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(nash_md(x, column(probability), beta=beta).sum())
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(nash_md_policy_gradient(h, probability, beta), abs=1e-12)


def test_a_step_with_one_kind_of_pairs_has_one_term() -> None:
    losses = column(0.5, 0.7)
    assert bvpo(losses, column(0, 0), alpha=0.3).mean().item() == pytest.approx(0.3 * 0.6)
    assert bvpo(losses, column(1, 1), alpha=0.3).mean().item() == pytest.approx(0.7 * 0.6)


def test_only_pairs_across_or_within_the_halves_are_trained_on(make_spec: MakeSpec) -> None:
    """Three responses, the first two in the first half: the pairs (0, 2), (1, 2) are across, (0, 1) is within."""
    for name, ends in (("nash-md", {(0, 2), (1, 2)}), ("bvpo", {(0, 1)})):
        spec = make_spec(objective={"name": name}, first_half=2)
        groups = read_preferences(spec.preferences.path).groups
        labeled = add_label_columns(spec, groups)
        for item in labeled.groups:
            indices = item.group.indices
            found = [(indices[pair.chosen], indices[pair.rejected]) for pair in item.group.pairs]
            assert {(min(pair), max(pair)) for pair in found} == ends
            second = np.array([chosen >= 2 for chosen, _ in found], dtype=float)
            assert item.pairs["second"].tolist() == second.tolist()
        assert labeled.unknown_pairs == sum(len(group.pairs) for group in groups) - len(ends) * len(groups)
    with pytest.raises(UserError, match="first half"):
        add_label_columns(make_spec(objective={"name": "nash-md"}), groups)


def test_the_class_of_a_relabelled_prompt_is_its_goal(make_spec: MakeSpec) -> None:
    spec = make_spec(objective={"name": "c-rlft"})
    groups = read_preferences(spec.preferences.path).groups[:2]
    asked = [replace(group, prompt_id=f"{group.prompt_id}@{goal}") for group, goal in zip(groups, (10, 1), strict=True)]
    first, second = add_label_columns(spec, asked).groups
    assert set(first.pairs["best"]) == {1.0}
    assert set(second.pairs["best"]) == {0.0}
    with pytest.raises(UserError, match="prompts with a goal"):
        add_label_columns(spec, groups)


MIXING = RunSetup(scoring=[], pairs="all", mixes=True)


@pytest.mark.parametrize(
    ("name", "setup", "message"),
    [
        ("nash-md", RunSetup(scoring=[], pairs="all"), "engine=transformers"),
        ("nash-md", RunSetup(scoring=[], pairs="all", mixes=True, drafts="refine"), "which drafts are not"),
        ("ipo-md", RunSetup(scoring=[], pairs="all", mixes=True, offline=True), "pairs from a file"),
        ("nash-md", RunSetup(scoring=[], pairs="all", mixes=True, responses=1), "sampling.responses=4"),
        ("bvpo", MIXING, "drafts=traces"),
        ("c-rlft", MIXING, "recipe=c-rlft"),
    ],
)
def test_a_run_that_does_not_provide_the_responses_is_refused(name: str, setup: RunSetup, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_objective(OBJECTIVES.read({"name": name}), setup)


@pytest.mark.parametrize("name", ["nash-md", "ipo-md"])
def test_a_mixing_engine_is_enough(name: str) -> None:
    check_objective(OBJECTIVES.read({"name": name}), MIXING)
