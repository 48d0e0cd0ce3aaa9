"""Log-probabilities of single tokens from hidden states, chunk by chunk, so that no tensor of all logits is made."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, log_softmax

CHUNK = 1 << 22  # logits in one chunk (16 MiB in float32)
KEPT = 1 << 25  # logits that are kept for the backward (128 MiB); those of further chunks are computed again


def token_logprobs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """log softmax(hidden @ weight.T + bias) at the targets, [N], float32 (float64 for such weights); differentiable.

    hidden: [N, H]; weight: [V, H]; bias: [V]; targets: int64 [N]. Under autocast the products are in its dtype and the
    softmax in float32, as in a plain forward.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    result: Tensor = _TokenLogprobs.apply(hidden, weight, bias, targets, dtype)
    return result


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        head = _Head(weight, bias, dtype)
        rows = max(1, CHUNK // len(weight))
        room = KEPT if any(ctx.needs_input_grad[:3]) else 0
        kept: list[Tensor] = []
        found = []
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
            logprobs = head.logprobs(h)
            found.append(logprobs.gather(1, t[:, None])[:, 0])
            room -= logprobs.numel()
            if room >= 0:
                kept.append(logprobs)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.kept, ctx.rows, ctx.dtype = kept, rows, dtype
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        kept, ctx.kept = ctx.kept[::-1], []
        head = _Head(weight, bias, ctx.dtype)
        wanted = ctx.needs_input_grad
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        of_weight = torch.zeros_like(weight) if wanted[1] else None
        of_bias = torch.zeros_like(bias) if wanted[2] else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            g = slope[part, None]
            logprobs = kept.pop() if kept else head.logprobs(hidden[part])
            # d logprob / d logits = 1[target] - softmax
            of_logits = logprobs.exp_().mul_(-g).scatter_add_(1, targets[part, None], g).to(ctx.dtype)
            if of_hidden is not None:
                of_hidden[part] = of_logits @ head.weight
            if of_weight is not None and of_weight.dtype == ctx.dtype:
                of_weight.addmm_(of_logits.t(), hidden[part])
            elif of_weight is not None:
                of_weight += of_logits.t() @ hidden[part].to(ctx.dtype)
            if of_bias is not None:
                of_bias += of_logits.sum(0)
        return of_hidden, of_weight, of_bias, None, None


class _Head:
    """The output layer in the dtype of its products."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype)
        self.bias = bias.to(dtype) if bias is not None else None

    def logprobs(self, hidden: Tensor) -> Tensor:
        logits = linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        return log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
