"""Adapters leave gradient checkpointing on: only the layers that are recomputed are in training mode."""

from pathlib import Path

from transformers.modeling_layers import GradientCheckpointingLayer

from tasks.modeling.load import load_policy
from tasks.training.policy import add_adapters, checkpoint_activations
from tasks.training.settings import LoraSettings


def test_layers_with_adapters_are_recomputed(tiny_policy: Path) -> None:
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    checkpoint_activations(model)
    adapted = add_adapters(model, LoraSettings(), seed=0)
    training = [module for module in adapted.modules() if module.training]
    assert len(training) == 2
    assert all(isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing for module in training)


def test_without_checkpointing_nothing_is_in_training_mode(tiny_policy: Path) -> None:
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    assert not [module for module in add_adapters(model, LoraSettings(), seed=0).modules() if module.training]
