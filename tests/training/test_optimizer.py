"""Learning-rate schedules, weight decay on matrices only, and saving the optimizer state as tensors."""

import pytest
import torch

from tasks.training.optimizer import build_optimizer, learning_rate, load_optimizer, optimizer_tensors, trainable
from tasks.training.settings import OptimizationSettings


def settings(**values: object) -> OptimizationSettings:
    return OptimizationSettings(learning_rate=1.0, **values)


@pytest.mark.parametrize(
    ("values", "rates"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1]),
        ({"schedule": "linear", "final_fraction": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({"schedule": "cosine", "final_fraction": 0.0}, [1, 0.8535534, 0.5, 0.1464466, 0]),
        ({"schedule": "linear", "final_fraction": 0.0, "warmup_ratio": 0.4}, [1 / 3, 2 / 3, 1, 0.5, 0]),
    ],
)
def test_schedules(values: dict[str, object], rates: list[float]) -> None:
    assert [learning_rate(step, 5, settings(**values)) for step in range(5)] == pytest.approx(rates, abs=1e-6)


def test_a_single_step_runs_at_the_peak() -> None:
    assert learning_rate(0, 1, settings(final_fraction=0.0)) == 1.0


def test_weight_decay_applies_to_matrices_only() -> None:
    """With zero gradients the only change is the decay of the matrix by lr * weight_decay."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(trainable(model), settings(weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = model.state_dict()
    torch.testing.assert_close(after["0.weight"], 0.9 * before["0.weight"])
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[name], before[name])


def test_restored_state_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(6, 4, 4)

    def step(model: torch.nn.Linear, optimizer: torch.optim.Optimizer, number: int) -> None:
        model.weight.grad = gradients[number]
        optimizer.step()

    model = torch.nn.Linear(4, 4, bias=False)
    optimizer = build_optimizer(trainable(model), settings())
    for number in range(3):
        step(model, optimizer, number)
    copy = torch.nn.Linear(4, 4, bias=False)
    copy.load_state_dict(model.state_dict())
    resumed = build_optimizer(trainable(copy), settings())
    state = {name: value.clone() for name, value in optimizer_tensors(optimizer, trainable(model)).items()}
    load_optimizer(resumed, trainable(copy), state)
    for number in range(3, 6):
        step(model, optimizer, number)
        step(copy, resumed, number)
    assert torch.equal(model.weight, copy.weight)
