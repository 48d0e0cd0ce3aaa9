"""Shard a policy's weights, gradients and optimizer state over all ranks with PyTorch's fully_shard (FSDP2).

Weights are gathered in float32, layer by layer, so a forward computes the same as in one process. Gradients are summed
over ranks, because each rank divides its loss by the number of terms in the whole optimizer step.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from tasks.training.batching import Forward
from tasks.training.groups import PromptGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_METHOD = "logprobs_of_groups"


class ShardedForward:
    """`forward` with its model's weights sharded over all ranks.

    The model is sharded in place: from then on only all ranks together can run it.
    """

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self.model = forward.model
        self.batches = forward.batches
        self.tokens_of = forward.tokens_of
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        for layer in _layers(self.model):
            fully_shard(layer, mesh=mesh)
        # Embeddings and head belong to the outer module. FSDP gathers them only inside the model's own forward or a
        # method that is registered as a forward.
        setattr(self.model, _METHOD, forward.logprobs)
        fully_shard(self.model, mesh=mesh)
        register_fsdp_forward_method(self.model, _METHOD)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def logprobs(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = getattr(self.model, _METHOD)(groups)
        return result


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


def placed_like(value: Tensor, parameter: Tensor) -> Tensor:
    """The full `value` on the device of `parameter` and sharded like it. No communication."""
    value = value.to(parameter.device, copy=True)
    if not isinstance(parameter, DTensor):
        return value
    options: dict[str, Any] = {"src_data_rank": None}
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, **options)
