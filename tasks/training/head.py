"""Token log-probabilities from hidden states, in chunks, so that the full logits are never in memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, log_softmax

CHUNK = 1 << 22  # logits per chunk (16 MiB in float32)
KEPT = 1 << 25  # logits kept for the backward pass (128 MiB); the other chunks are recomputed


def token_logprobs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """log softmax(hidden @ weight.T + bias) at the targets, [N], float32 (float64 for float64 weights); differentiable.

    hidden: [N, H]; weight: [V, H]; bias: [V]; targets: int64 [N]. Under autocast, matrix products are in its dtype and
    the softmax in float32, as in a plain forward.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    apply: Callable[..., Tensor] = _TokenLogprobs.apply  # untyped in torch
    return apply(hidden, weight, bias, targets, dtype)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        head = _Head(weight, bias, dtype)
        rows = max(1, CHUNK // len(weight))
        room = KEPT if any(ctx.needs_input_grad[:3]) else 0
        kept: list[Tensor] = []
        chosen = []
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
            logprobs = head.logprobs(h)
            chosen.append(logprobs.gather(1, t[:, None])[:, 0])
            room -= logprobs.numel()
            if room >= 0:
                kept.append(logprobs)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.kept, ctx.rows, ctx.dtype = kept, rows, dtype
        return torch.cat(chosen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        kept, ctx.kept = ctx.kept[::-1], []
        head = _Head(weight, bias, ctx.dtype)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            g = grad_output[part, None]
            logprobs = kept.pop() if kept else head.logprobs(hidden[part])
            # d logprob / d logits = 1[target] - softmax
            grad_logits = logprobs.exp_().mul_(-g).scatter_add_(1, targets[part, None], g).to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ head.weight
            if grad_weight is not None and grad_weight.dtype == ctx.dtype:
                grad_weight.addmm_(grad_logits.t(), hidden[part])
            elif grad_weight is not None:
                grad_weight += grad_logits.t() @ hidden[part].to(ctx.dtype)
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None


class _Head:
    """The output layer, cast to the dtype of the matrix product."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype)
        self.bias = bias.to(dtype) if bias is not None else None

    def logprobs(self, hidden: Tensor) -> Tensor:
        logits = linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        return log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
