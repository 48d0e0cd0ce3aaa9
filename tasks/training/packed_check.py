"""Before training: check that packed rows give the same log-probabilities and gradients as plain rows.

An architecture may keep state across positions, number positions itself, or read the row outside of attention. Packed
rows then compute another function without an error. So a few prompts of the training data are forwarded both ways.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from storage.errors import UserError
from tasks.training.batching import Forward, PackedForward, PlainForward
from tasks.training.distributed import ALONE, Ranks
from tasks.training.groups import PromptGroup
from tasks.training.packing import packed_tokens
from tasks.training.sharding import own

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUPS = 3
GRADIENT_NUMBERS = 1 << 28  # gradient entries to compare at most (1 GiB)
#: By dtype: tolerance of a token's log-probability, in nats, and of the gradient, relative to its norm.
#: Exact forwards differ by 1e-6 in both in float32; a wrong mask by 1e-1 or more.
TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (0.2, 0.1)}


def checked_packed_forward(
    model: "PreTrainedModel",
    groups: Sequence[PromptGroup],
    autocast: Callable[[], AbstractContextManager[None]],
    *,
    tokens: int,
    place: Callable[[Forward], Forward] = lambda forward: forward,
    ranks: Ranks = ALONE,
) -> Forward:
    """The packed forward of `model`, with at most `tokens` tokens per call, checked on a few of `groups`.

    `place` may shard the model over all `ranks`, which then run the check together. Forwards are compared in float32 on
    a CPU, and under `autocast` on a GPU, where half precision uses another attention kernel.
    Raises UserError when packed and plain rows differ, or when the model does not support packed rows.
    """
    try:
        packed = place(PackedForward(model, tokens))
        gpu = next(packed.model.parameters()).is_cuda
        context, tolerances = (autocast, TOLERANCES["bfloat16"]) if gpu else (nullcontext, TOLERANCES["float32"])
        differences = _differences(packed, select_groups(groups, model.config), context, ranks)
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        raise _refusal(model, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    if not (differences[0] <= tolerances[0] and differences[1] <= tolerances[1]):
        raise _refusal(
            model,
            f"token log-probabilities differ from plain rows by up to {differences[0]:.2e} nats (allowed "
            f"{tolerances[0]:g}), the gradient by {differences[1]:.2e} of its norm (allowed {tolerances[1]:g})",
        )
    return packed


def _refusal(model: nn.Module, reason: str) -> UserError:
    return UserError(
        f"{type(model).__name__} cannot be trained on packed rows: {reason}",
        where="training.batching=packed",
        remedy="use training.batching=plain: one padded row per response, slower but exact for every architecture",
    )


def select_groups(groups: Sequence[PromptGroup], config: Any) -> list[PromptGroup]:
    """The smallest groups with several responses, including one longer than the model's sliding window, if any."""
    order = sorted(groups, key=lambda group: (len(group.responses) < 2, packed_tokens(group)))
    window = getattr(config, "sliding_window", None)
    longer = [group for group in order if window is not None and group.longest > window][:1]
    return longer + [group for group in order if group not in longer][: GROUPS - len(longer)]


def _differences(
    packed: Forward,
    groups: Sequence[PromptGroup],
    autocast: Callable[[], AbstractContextManager[None]],
    ranks: Ranks,
) -> tuple[float, float]:
    """Largest absolute difference of token log-probabilities, in nats, and relative difference of the gradients."""
    parameters: list[nn.Parameter] = []
    remaining = GRADIENT_NUMBERS
    for parameter in packed.model.parameters():
        remaining -= own(parameter).numel()
        if parameter.requires_grad and (remaining >= 0 or not parameters):
            parameters.append(parameter)

    def logprobs_and_gradient(forward: Forward) -> tuple[Tensor, Sequence[Tensor]]:
        with autocast():
            single = forward.logprobs(groups)[1]
        weights = torch.cos(torch.arange(len(single), dtype=single.dtype, device=single.device))
        return single.detach(), _gradient((weights * single).sum(), packed.model, parameters)

    packed_logprobs, packed_gradients = logprobs_and_gradient(packed)
    plain_logprobs, plain_gradients = logprobs_and_gradient(PlainForward(packed.model, 1))
    squares = [
        torch.stack(
            [(packed_gradient - plain_gradient).double().square().sum(), plain_gradient.double().square().sum()]
        )
        for packed_gradient, plain_gradient in zip(packed_gradients, plain_gradients, strict=True)
    ]
    difference, norm = ranks.total(torch.stack(squares).sum(0)).sqrt().tolist()
    return float((packed_logprobs - plain_logprobs).abs().max()), difference / max(norm, 1e-30)


def _gradient(total: Tensor, model: nn.Module, parameters: Sequence[nn.Parameter]) -> Sequence[Tensor]:
    """The gradient of `total` with respect to `parameters`; for sharded parameters, this rank's shard.

    FSDP reduces gradients only in a full backward pass. `.grad` of all parameters is None afterwards.
    """
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    total.backward()
    gradients = [own(torch.zeros_like(p) if p.grad is None else p.grad) for p in parameters]
    for parameter in model.parameters():
        parameter.grad = None
    return gradients
