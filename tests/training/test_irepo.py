"""The objective against the vectors of the method's specification, computed in float64 by complex steps."""

import math

import pytest
import torch

from storage.schemas import PREFERENCES
from tasks.training.objectives import OBJECTIVES, build_objective
from tasks.training.objectives.irepo import irepo
from tasks.training.settings import ObjectiveSettings


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("beta", "scale", "loss", "gradient"),
    [
        (0.1, "reward", 0.977354257306, -0.197722457734),
        (0.1, "logratio", 97.735425730560, -19.772245773362),
        (1.0, "reward", 1.925743e-6, 0.002775422664),
    ],
)
def test_vectors(beta: float, scale: str, loss: float, gradient: float) -> None:
    chosen, rejected = tensor(0.7), tensor(-0.4)
    value, metrics = irepo(chosen, rejected, tensor(math.log(3)), beta=beta, scale=scale)  # type: ignore[arg-type]
    value.sum().backward()
    assert value.item() == pytest.approx(loss, abs=1e-9)
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(gradient, abs=1e-9)
    assert rejected.grad.item() == pytest.approx(-gradient, abs=1e-9)
    assert metrics["margin"].item() == pytest.approx(beta * 1.1, abs=1e-12)


@pytest.mark.parametrize("scale", ["reward", "logratio"])
def test_invariants(scale: str) -> None:
    """Swapping a pair and negating its target, and adding one constant to both log-ratios, change nothing."""
    torch.manual_seed(0)
    h_w, h_l, target = torch.randn(3, 50, dtype=torch.float64)
    loss, metrics = irepo(h_w, h_l, target, beta=0.3, scale=scale)  # type: ignore[arg-type]
    swapped, swapped_metrics = irepo(h_l, h_w, -target, beta=0.3, scale=scale)  # type: ignore[arg-type]
    shifted, _ = irepo(h_w + 5.0, h_l + 5.0, target, beta=0.3, scale=scale)  # type: ignore[arg-type]
    torch.testing.assert_close(swapped, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shifted, loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(swapped_metrics["accuracy"], metrics["accuracy"], rtol=0, atol=0)


def test_scales_differ_by_beta_squared() -> None:
    h_w, h_l, target = tensor(0.7), tensor(-0.4), tensor(1.2)
    reward, _ = irepo(h_w, h_l, target, beta=0.2, scale="reward")
    logratio, _ = irepo(h_w, h_l, target, beta=0.2, scale="logratio")
    assert reward.item() == pytest.approx(0.04 * logratio.item(), rel=1e-12)


def test_identical_responses_pull_nowhere() -> None:
    """The same response twice: the loss is target^2 whatever the policy does, and the gradients cancel."""
    h = tensor(0.9)
    loss, metrics = irepo(h, h, tensor(2.0), beta=0.1, scale="reward")
    loss.sum().backward()
    assert loss.item() == 4.0
    assert h.grad is not None
    assert h.grad.item() == 0.0
    assert metrics["accuracy"].item() == 0.5


def test_target_has_no_gradient_and_minimum_is_target_over_beta() -> None:
    target = tensor(1.5)
    loss, metrics = irepo(tensor(3.0), tensor(0.0), target, beta=0.5, scale="logratio")
    loss.sum().backward()
    assert loss.item() == 0.0
    assert target.grad is None
    assert metrics["margin"].item() == 1.5


def test_registry_names_columns_of_the_preferences() -> None:
    for name in OBJECTIVES:
        objective = build_objective(ObjectiveSettings(name=name))  # type: ignore[arg-type]
        assert objective.name == name
        assert objective.label in PREFERENCES.names
