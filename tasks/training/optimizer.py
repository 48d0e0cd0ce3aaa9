"""AdamW with weight decay on matrices only, the learning-rate schedule, and the optimizer state as tensors."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from tasks.training.settings import OptimizationSettings


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name; tied parameters occur once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_optimizer(parameters: dict[str, nn.Parameter], settings: OptimizationSettings) -> torch.optim.AdamW:
    """AdamW without weight decay on norms and biases (one-dimensional parameters)."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)


def learning_rate(step: int, steps: int, settings: OptimizationSettings) -> float:
    """Learning rate of optimizer step `step` (from 0) of `steps`.

    Rises linearly over the first ceil(warmup_ratio * steps) steps and peaks on the next step. The linear and cosine
    schedules end at final_fraction of the peak.
    """
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    fraction = (step - warmup) / max(1, steps - 1 - warmup)
    shapes = {"constant": 1.0, "linear": 1 - fraction, "cosine": (1 + math.cos(math.pi * fraction)) / 2}
    floor = 0.0 if settings.schedule == "constant" else settings.final_fraction
    return settings.learning_rate * (floor + (1 - floor) * shapes[settings.schedule])


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """The optimizer state by `<parameter>/<field>`; sharded like the parameters."""
    return {
        f"{name}/{field}": value
        for name, parameter in parameters.items()
        for field, value in optimizer.state[parameter].items()
    }


def empty_state(parameters: dict[str, nn.Parameter], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Zeros for each of `names` that is the state of a parameter: sharded like it, or a scalar for its steps."""
    state = {}
    for key in names:
        name, _, field = key.rpartition("/")
        if name in parameters:
            parameter = parameters[name].detach()
            scalar = torch.zeros((), device=parameter.device)
            state[key] = scalar if field == "step" else torch.zeros_like(parameter)
    return state


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], state: Mapping[str, torch.Tensor]
) -> None:
    """Use `state`, as `optimizer_tensors` returns it, as the state of `optimizer`."""
    for key, value in state.items():
        name, _, field = key.rpartition("/")
        optimizer.state[parameters[name]][field] = value
