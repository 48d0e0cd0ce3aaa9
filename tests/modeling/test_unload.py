"""Unloading a model frees its weights at once, without the garbage collector."""

import gc
import weakref
from pathlib import Path

import pytest

from tasks.modeling.load import load_policy, unload


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_of_an_unloaded_model_are_gone_at_once(
    tied: bool, tiny_policy: Path, tiny_policy_untied: Path
) -> None:
    model = load_policy(tiny_policy if tied else tiny_policy_untied, dtype="float32", device="cpu")
    model.itself = [model]  # type: ignore[assignment]  # a reference cycle, as hooks and configs make
    weights = [weakref.ref(tensor) for tensor in [*model.parameters(), *model.buffers()]]
    gc.disable()
    try:
        unload(model)
        assert weights
        assert all(tensor is None or tensor.is_meta for tensor in (weight() for weight in weights))
    finally:
        gc.enable()
