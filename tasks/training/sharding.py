"""Shard a policy's weights, gradients and optimizer state over all ranks with PyTorch's fully_shard (FSDP2).

Weights are kept in float32 and gathered layer by layer, in bfloat16 for `training.dtype=bfloat16`: a gathered layer is
freed after its forward, and gathered again for its backward. Under autocast, its bfloat16 copy would stay until then on
every rank. Gradients are reduced in float32, and summed over ranks, because each rank divides its loss by the number of
terms in the whole optimizer step.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from tasks.training.batching import Forward
from tasks.training.groups import PromptGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
_METHOD = "run_gathered"


def shard(model: "PreTrainedModel", device: torch.device, dtype: torch.dtype) -> None:
    """Shard `model` in place over all ranks, on `device`; its forward computes in `dtype`.

    From then on only all ranks together can run it.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    half = dtype != torch.float32
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    # Embeddings and head belong to the outer module. FSDP gathers them only inside the model's own forward or a method
    # that is registered as a forward.
    setattr(model, _METHOD, lambda function, *arguments: function(*arguments))
    fully_shard(model, mesh=mesh, mp_policy=precision)
    register_fsdp_forward_method(model, _METHOD)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def run_gathered(model: "PreTrainedModel", function: Callable[..., T], *arguments: Any) -> T:
    """Call `function` with the weights outside of the sharded `model`'s layers gathered. A collective."""
    result: T = getattr(model, _METHOD)(function, *arguments)
    return result


def reshard(model: nn.Module) -> None:
    """Free the weights outside of the layers, which stay gathered after a forward until its backward."""
    assert isinstance(model, FSDPModule)
    model.reshard()
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


class ShardedForward:
    """`forward` of a model that is sharded over all ranks."""

    def __init__(self, forward: Forward) -> None:
        self.model = forward.model
        self.batches = forward.batches
        self.tokens_of = forward.tokens_of
        self._logprobs = forward.logprobs

    def logprobs(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, Tensor]:
        return run_gathered(self.model, self._logprobs, groups)


def _layers(model: "PreTrainedModel") -> list[nn.Module]:
    """The decoder layers: modules whose class the architecture lists in _no_split_modules."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in names]


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered on every rank (a collective); any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """This rank's shard; any other tensor unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: DTensor) -> int:
    """The row (along dimension 0) of the whole tensor at which this rank's shard starts."""
    (placement,) = tensor.placements
    assert placement == Shard(0)
    ranks = tensor.device_mesh.size()
    rows = len(tensor)
    return min(tensor.device_mesh.get_local_rank() * -(-rows // ranks), rows)


def placed_like(value: Tensor, parameter: Tensor) -> Tensor:
    """The full `value` on the device of `parameter` and sharded like it. No communication."""
    value = value.to(parameter.device, copy=True)
    if not isinstance(parameter, DTensor):
        return value
    options: dict[str, Any] = {"src_data_rank": None}
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, **options)
