"""Before training: does the packed forward give this model's own log-probabilities and gradients?

An architecture may keep state across positions, number them itself, or read more of the row than its attention is
told: then packed rows are another function, without any error. So a few prompts of the very data are asked both ways.
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
GRADIENT_NUMBERS = 1 << 28  # of the gradient that are compared, at most (1 GiB)
#: By dtype: largest difference of a token's log-probability, nats, and of the gradient, as a share of its norm.
#: Exact forwards differ by 1e-6 and 1e-6 in float32; a mask that is wrong by 1e-1 and more.
ALLOWED = {"float32": (1e-4, 1e-3), "bfloat16": (0.2, 0.1)}


def packed_forward(
    model: "PreTrainedModel",
    groups: Sequence[PromptGroup],
    autocast: Callable[[], AbstractContextManager[None]],
    *,
    tokens: int,
    place: Callable[[Forward], Forward] = lambda forward: forward,
    ranks: Ranks = ALONE,
) -> Forward:
    """The packed forward of `model`, of at most `tokens` tokens, once it agrees with the plain one on some of `groups`.

    `place` may put the model in shards on all `ranks`, which then ask it together. On a CPU the forwards are compared
    in float32; on a GPU under `autocast`, whose attention is another.
    Raises UserError when they differ, or packed rows cannot be had.
    """
    try:
        packed = place(PackedForward(model, tokens))
        gpu = next(packed.model.parameters()).is_cuda
        context, allowed = (autocast, ALLOWED["bfloat16"]) if gpu else (nullcontext, ALLOWED["float32"])
        off = _differences(packed, _chosen(groups, model.config), context, ranks)
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        raise _refusal(model, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    if not (off[0] <= allowed[0] and off[1] <= allowed[1]):
        raise _refusal(
            model,
            f"log-probabilities of tokens differ from plain rows' by up to {off[0]:.2e} nats (allowed {allowed[0]:g}), "
            f"the gradient by {off[1]:.2e} of its norm (allowed {allowed[1]:g})",
        )
    return packed


def _refusal(model: nn.Module, what: str) -> UserError:
    return UserError(
        f"{type(model).__name__} cannot be trained on packed rows: {what}",
        where="training.batching=packed",
        remedy="use training.batching=plain: one padded row a response, slower and exact for every architecture",
    )


def _chosen(groups: Sequence[PromptGroup], config: Any) -> list[PromptGroup]:
    """The smallest groups of more than one response; among them one that is longer than the model's sliding window."""
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
    """Largest difference of single tokens' log-probabilities; norm of the gradients' difference over the gradient's."""
    parameters: list[nn.Parameter] = []
    left = GRADIENT_NUMBERS
    for parameter in packed.model.parameters():
        left -= own(parameter).numel()
        if parameter.requires_grad and (left >= 0 or not parameters):
            parameters.append(parameter)

    def answer(forward: Forward) -> tuple[Tensor, Sequence[Tensor]]:
        with autocast():
            single = forward.logprobs(groups)[1]
        weights = torch.cos(torch.arange(len(single), dtype=single.dtype, device=single.device))
        return single.detach(), _gradient((weights * single).sum(), packed.model, parameters)

    ours, our_gradients = answer(packed)
    theirs, their_gradients = answer(PlainForward(packed.model, 1))
    squares = [
        torch.stack([(mine - its).double().square().sum(), its.double().square().sum()])
        for mine, its in zip(our_gradients, their_gradients, strict=True)
    ]
    difference, norm = ranks.total(torch.stack(squares).sum(0)).sqrt().tolist()
    return float((ours - theirs).abs().max()), difference / max(norm, 1e-30)


def _gradient(total: Tensor, model: nn.Module, parameters: Sequence[nn.Parameter]) -> Sequence[Tensor]:
    """The gradient of `total` with respect to `parameters`; of those in shards, this rank's.

    Shards are filled in a backward of all of the model, which leaves nothing behind.
    """
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    total.backward()
    result = [own(torch.zeros_like(each) if each.grad is None else each.grad) for each in parameters]
    for parameter in model.parameters():
        parameter.grad = None
    return result
