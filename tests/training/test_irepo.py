"""iREPO's symmetries and minimum. Its test vectors are in test_objective_vectors.py."""

import math

import pytest
import torch

from tasks.training.objectives.irepo import irepo


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("scale", ["reward", "logratio"])
@pytest.mark.parametrize("logit", [True, False])
def test_swap_and_shift_change_nothing(scale: str, logit: bool) -> None:
    """Swap the pair and negate its target; add a constant to both log-ratios."""
    torch.manual_seed(0)
    h_w, h_l, target = torch.randn(3, 50, dtype=torch.float64)
    loss = irepo(h_w, h_l, target, beta=0.3, scale=scale, logit=logit)  # type: ignore[arg-type]
    swapped = irepo(h_l, h_w, -target, beta=0.3, scale=scale, logit=logit)  # type: ignore[arg-type]
    shifted = irepo(h_w + 5.0, h_l + 5.0, target, beta=0.3, scale=scale, logit=logit)  # type: ignore[arg-type]
    torch.testing.assert_close(swapped, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shifted, loss, rtol=1e-9, atol=1e-12)


def test_scales_differ_by_beta_squared() -> None:
    h_w, h_l, target = tensor(0.7), tensor(-0.4), tensor(1.2)
    reward = irepo(h_w, h_l, target, beta=0.2, scale="reward")
    logratio = irepo(h_w, h_l, target, beta=0.2, scale="logratio")
    assert reward.item() == pytest.approx(0.04 * logratio.item(), rel=1e-12)


def test_identical_responses_have_no_gradient() -> None:
    """The same response twice: the loss is target^2 for any policy, and the gradients cancel."""
    h = tensor(0.9)
    loss = irepo(h, h, tensor(2.0), beta=0.1)
    loss.sum().backward()
    assert loss.item() == 4.0
    assert h.grad is not None
    assert h.grad.item() == 0.0


def test_minimum_is_target_over_beta_and_target_has_no_gradient() -> None:
    target = tensor(1.5)
    loss = irepo(tensor(3.0), tensor(0.0), target, beta=0.5, scale="logratio")
    loss.sum().backward()
    assert loss.item() == 0.0
    assert target.grad is None


def test_without_logit_the_minimum_is_the_preference_minus_one_half() -> None:
    assert irepo(tensor(2.5), tensor(0.0), tensor(math.log(3)), beta=0.1, logit=False).item() == pytest.approx(0.0)
