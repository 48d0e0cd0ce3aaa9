"""Before training: check that packed rows give the same log-probabilities and gradients as plain rows.

An architecture may keep state across positions, number positions itself, or read the row outside of attention. Packed
rows then compute another function without an error. So a few prompts of the training data are forwarded both ways.

In float32 both must agree. In half precision rounding alone moves single tokens by tenths of a nat, so the mean error
of packed rows against float32 is compared with that of plain rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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

Context = Callable[[], AbstractContextManager[None]]

GROUPS = 3
GRADIENT_NUMBERS = 1 << 28  # gradient entries to compare at most (1 GiB)
#: In float32: tolerance of a token's log-probability, in nats, and of the gradient, relative to its norm.
#: Exact forwards differ by 1e-6 in both; a wrong mask by 1e-1 or more.
TOLERANCES = (1e-4, 1e-3)
#: In half precision: the same, added to HALF_RATIO times the error that plain rows have themselves against float32.
#: Plain rows of a right model in bfloat16 were seen off by 0.24 nats at their worst token, and by 0.03 in the mean.
HALF_FLOORS = (0.01, 0.02)
HALF_RATIO = 2.0
HALF_ERRORS = 3.0  # standard errors of plain rows' mean error that are allowed besides


class Measured(NamedTuple):
    """Log-probability of each response token, float64 [T], and the gradient of a weighted sum of them."""

    logprobs: Tensor
    gradients: Sequence[Tensor]  # of `_compared_parameters`; for sharded parameters, this rank's shard


@dataclass(frozen=True)
class Comparison:
    """How far packed rows are from float32 plain rows: log-probabilities in nats, the gradient relative to its norm."""

    logprobs: float  # of the worst token in float32, of the mean token in half precision
    gradient: float
    allowed: tuple[float, float]

    @property
    def holds(self) -> bool:
        return self.logprobs <= self.allowed[0] and self.gradient <= self.allowed[1]

    def require(self, model: nn.Module) -> None:
        """Raise UserError unless it holds."""
        if not self.holds:
            raise _refusal(
                model,
                f"token log-probabilities differ from plain rows by {self.logprobs:.2e} nats (allowed "
                f"{self.allowed[0]:.2g}), the gradient by {self.gradient:.2e} of its norm (allowed "
                f"{self.allowed[1]:.2g})",
            )


def checked_packed_forward(
    model: "PreTrainedModel", groups: Sequence[PromptGroup], autocast: Context, *, tokens: int
) -> Forward:
    """The packed forward of `model`, with at most `tokens` tokens per call, checked on a few of `groups`.

    Forwards are compared in float32 on a CPU, and under `autocast` on a GPU, where half precision uses another
    attention kernel. Raises UserError when packed and plain rows differ, or when the model does not support packed
    rows.
    """
    with refusing(model):
        packed = PackedForward(model, tokens)
        half = autocast if next(model.parameters()).is_cuda else None
        compared = check_rows(packed, select_groups(groups, model.config), half)
    compared.require(model)
    return packed


@contextmanager
def refusing(model: nn.Module) -> Iterator[None]:
    """Turn an error in a forward over packed rows into a UserError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        raise _refusal(model, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


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


def check_rows(packed: Forward, groups: Sequence[PromptGroup], half: Context | None = None) -> Comparison:
    """Packed rows of a model on one rank against its plain rows in float32; with `half`, packed rows are in it."""
    plain = PlainForward(packed.model, 1)
    exact = measure(plain, groups)
    if half is None:
        return compare(exact, measure(packed, groups))
    return compare(exact, measure(packed, groups, half), measure(plain, groups, half))


def measure(forward: Forward, groups: Sequence[PromptGroup], context: Context = nullcontext) -> Measured:
    """Log-probabilities of `groups` by `forward` within `context`, and a gradient through all of them."""
    with context():
        single = forward.logprobs(groups)[1]
    weights = torch.cos(torch.arange(len(single), dtype=single.dtype, device=single.device))
    parameters = _compared_parameters(forward.model)
    return Measured(single.detach(), _gradient((weights * single).sum(), forward.model, parameters))


def compare(exact: Measured, packed: Measured, plain: Measured | None = None, ranks: Ranks = ALONE) -> Comparison:
    """How far packed rows are from `exact`, which are plain rows in float32.

    plain: plain rows in the half precision of `packed`. Without them, `packed` is in float32 and must equal `exact`.
    """
    off = (packed.logprobs - exact.logprobs).abs()
    gradient = _distance(packed, exact, ranks)
    if plain is None:
        return Comparison(float(off.max()), gradient, TOLERANCES)
    plain_off = (plain.logprobs - exact.logprobs).abs()
    error = float(plain_off.std(unbiased=False) / len(plain_off) ** 0.5)  # of its mean: a few tokens scatter
    floor, gradient_floor = HALF_FLOORS
    allowed = floor + HALF_RATIO * float(plain_off.mean()) + HALF_ERRORS * error
    return Comparison(
        float(off.mean()), gradient, (allowed, gradient_floor + HALF_RATIO * _distance(plain, exact, ranks))
    )


def _distance(one: Measured, exact: Measured, ranks: Ranks) -> float:
    """The length of the difference of two gradients, relative to that of the exact one."""
    squares = [
        torch.stack([(gradient - right).double().square().sum(), right.double().square().sum()])
        for gradient, right in zip(one.gradients, exact.gradients, strict=True)
    ]
    difference, norm = ranks.total(torch.stack(squares).sum(0)).sqrt().tolist()
    return float(difference / max(norm, 1e-30))


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
