"""Before training: check that packed rows give the same log-probabilities and gradients as plain rows.

An architecture may keep state across positions, number positions itself, or read the row outside of attention. Packed
rows then compute another function without an error. So a few prompts of the training data are forwarded both ways.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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
#: In float32: tolerance of a token's log-probability, in nats, and of the gradient, relative to its norm.
#: Exact forwards differ by 1e-6 in both; a wrong mask by 1e-1 or more.
TOLERANCES = (1e-4, 1e-3)
#: In half precision: the same, added to HALF_RATIO times the error that plain rows have themselves against float32.
#: Plain rows of a right model in bfloat16 were seen off by 0.24 nats at their worst token, and by 0.03 in the mean.
HALF_FLOORS = (0.01, 0.02)
HALF_RATIO = 2.0


@dataclass(frozen=True)
class Comparison:
    """How far packed rows are from float32 plain rows: log-probabilities in nats, the gradient relative to its norm."""

    logprobs: float  # of the worst token in float32, of the mean token in half precision
    gradient: float
    allowed: tuple[float, float]

    @property
    def holds(self) -> bool:
        return self.logprobs <= self.allowed[0] and self.gradient <= self.allowed[1]


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
    a CPU, and under `autocast` on a GPU, where half precision uses another attention kernel (see `compare`).
    Raises UserError when packed and plain rows differ, or when the model does not support packed rows.
    """
    try:
        packed = place(PackedForward(model, tokens))
        half = autocast if next(packed.model.parameters()).is_cuda else None
        compared = compare(packed, select_groups(groups, model.config), half, ranks)
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        raise _refusal(model, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    if not compared.holds:
        raise _refusal(
            model,
            f"token log-probabilities differ from plain rows by {compared.logprobs:.2e} nats (allowed "
            f"{compared.allowed[0]:.2g}), the gradient by {compared.gradient:.2e} of its norm (allowed "
            f"{compared.allowed[1]:.2g})",
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


def compare(
    packed: Forward,
    groups: Sequence[PromptGroup],
    half: Callable[[], AbstractContextManager[None]] | None = None,
    ranks: Ranks = ALONE,
) -> Comparison:
    """Packed rows against plain rows in float32: log-probabilities of `groups`, and a gradient through all of them.

    half: a context that autocasts to half precision. Packed rows are then computed in it, and may be as far from
    float32 as plain rows computed in it (times HALF_RATIO), because rounding alone moves single tokens by tenths.
    """
    plain = PlainForward(packed.model, 1)
    parameters = _compared_parameters(packed.model)

    def run(forward: Forward, context: Callable[[], AbstractContextManager[None]]) -> tuple[Tensor, Sequence[Tensor]]:
        with context():
            single = forward.logprobs(groups)[1]
        weights = torch.cos(torch.arange(len(single), dtype=single.dtype, device=single.device))
        return single.detach(), _gradient((weights * single).sum(), packed.model, parameters)

    exact_logprobs, exact_gradients = run(plain, nullcontext)

    def errors(forward: Forward, context: Callable[[], AbstractContextManager[None]]) -> tuple[Tensor, float]:
        """Absolute error of each token's log-probability, and the gradient's error relative to its norm."""
        logprobs, gradients = run(forward, context)
        squares = [
            torch.stack([(gradient - exact).double().square().sum(), exact.double().square().sum()])
            for gradient, exact in zip(gradients, exact_gradients, strict=True)
        ]
        difference, norm = ranks.total(torch.stack(squares).sum(0)).sqrt().tolist()
        return (logprobs - exact_logprobs).abs(), difference / max(norm, 1e-30)

    if half is None:
        tokens, gradient = errors(packed, nullcontext)
        return Comparison(float(tokens.max()), gradient, TOLERANCES)
    tokens, gradient = errors(plain, half)
    allowed = (HALF_FLOORS[0] + HALF_RATIO * float(tokens.mean()), HALF_FLOORS[1] + HALF_RATIO * gradient)
    tokens, gradient = errors(packed, half)
    return Comparison(float(tokens.mean()), gradient, allowed)


def _compared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Trained parameters, in order, up to GRADIENT_NUMBERS numbers of all parameters."""
    parameters: list[nn.Parameter] = []
    remaining = GRADIENT_NUMBERS
    for parameter in model.parameters():
        remaining -= own(parameter).numel()
        if parameter.requires_grad and (remaining >= 0 or not parameters):
            parameters.append(parameter)
    return parameters


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
