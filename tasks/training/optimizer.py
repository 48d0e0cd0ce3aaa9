"""AdamW with weight decay on matrices only, its learning rate as a function of the step, and its state as tensors."""

import math

import torch
from torch import nn

from tasks.training.settings import OptimizationSettings
from tasks.training.sharding import placed_like


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; a tied one once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_optimizer(parameters: dict[str, nn.Parameter], settings: OptimizationSettings) -> torch.optim.AdamW:
    """AdamW; norms and biases (one-dimensional parameters) are not decayed."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)


def learning_rate(step: int, steps: int, settings: OptimizationSettings) -> float:
    """Learning rate of optimizer step `step` (from 0) of `steps`.

    Rises linearly over the first ceil(warmup_ratio * steps) steps, is at its peak on the step after them, and reaches
    final_fraction of the peak at the last step (linear, cosine).
    """
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - 1 - warmup)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]
    floor = 0.0 if settings.schedule == "constant" else settings.final_fraction
    return settings.learning_rate * (floor + (1 - floor) * shape)


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """The optimizer's state, named `<parameter>/<field>`; in shards where the parameters are."""
    return {
        f"{name}/{field}": value
        for name, parameter in parameters.items()
        for field, value in optimizer.state[parameter].items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, torch.Tensor]
) -> None:
    """Put the state of `optimizer_tensors` back, where and in shards as each parameter is (bit for bit)."""
    for key, value in tensors.items():
        name, _, field = key.rpartition("/")
        parameter = parameters[name]
        placed = placed_like(value, parameter) if value.ndim else value.to(parameter.device, copy=True)
        optimizer.state[parameter][field] = placed
