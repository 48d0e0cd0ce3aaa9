"""Token log-probabilities from hidden states, in chunks, so that the full logits are never in memory."""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, log_softmax

from tasks.modeling.chunk_size import CPU_CHUNK, ChunkSize, gpu_chunk

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def chunk_size(device: torch.device) -> ChunkSize:
    """The chunk for logits on `device`: fits a CPU's cache, or a 64th of a GPU's memory (1 GiB of 80)."""
    if device.type == "cpu":
        return CPU_CHUNK
    return gpu_chunk(torch.cuda.get_device_properties(device).total_memory)


def head_logprobs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """log softmax(hidden @ weight.T + bias) at the targets, [N], float32 (float64 for float64 weights); differentiable.

    hidden: [N, H]; weight: [V, H]; bias: [V]; targets: int64 [N]. Under autocast, matrix products are in its dtype and
    the softmax in float32, as in a plain forward.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    size = chunk_size(hidden.device)
    kept = size.kept if torch.is_grad_enabled() else 0
    apply: Callable[..., Tensor] = _TokenLogprobs.apply  # untyped in torch
    return apply(hidden, weight, bias, targets, dtype, max(1, size.logits // len(weight)), kept)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        rows: int,
        room: int,
    ) -> Tensor:
        head = _Head(weight, bias, dtype)
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
        summed = torch.promote_types(weight.dtype, torch.float32)  # half precision would round every chunk's sum
        grad_weight = torch.zeros_like(weight, dtype=summed) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=summed) if needs_bias else None
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
        # autograd casts the sums to the dtype of weight and bias
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


class _Head:
    """The output layer, cast to the dtype of the matrix product."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype)
        self.bias = bias.to(dtype) if bias is not None else None

    def logprobs(self, hidden: Tensor) -> Tensor:
        logits = linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        return log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


_layers: "WeakKeyDictionary[nn.Module, nn.Linear]" = WeakKeyDictionary()


def output_layer(model: "PreTrainedModel") -> nn.Linear | None:
    """The output layer if the model's logits are exactly this layer applied to the last hidden states; else None.

    `model` may be a PeftModel. Checked once for each model, by a forward of four tokens: a hook replaces the layer's
    output, which the model must return as its logits, and the layer's input must be the decoder's last hidden states.
    """
    inner = base_model(model)
    layer = inner.get_output_embeddings()
    if type(layer) is not nn.Linear:
        return None
    if _layers.get(inner) is layer:
        return layer
    if not _is_head(model, inner, layer):
        return None
    _layers[inner] = layer
    return layer


def twin(model: "PreTrainedModel") -> "PreTrainedModel":
    """A copy for another thread: it shares the parameters, but not what a forward may change (buffers, hooks).

    Rotary embeddings of some models depend on the longest sequence seen, and are kept in a buffer.
    """
    checked = output_layer(model)
    copied = deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    if checked is not None:
        inner = base_model(copied)
        _layers[inner] = cast("nn.Linear", inner.get_output_embeddings())
    return copied


def base_model(model: "PreTrainedModel") -> "PreTrainedModel":
    """The model itself, without the PeftModel around it."""
    adapted: Any = model
    base: PreTrainedModel = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
    return base


def _is_head(model: nn.Module, inner: "PreTrainedModel", layer: nn.Linear) -> bool:
    inputs: list[Tensor] = []
    device = layer.weight.device
    replacement = torch.linspace(-1e3, 1e3, layer.out_features, device=device, dtype=layer.weight.dtype)

    def replace(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs.append(arguments[0])
        return replacement.expand_as(output)

    ids = torch.arange(4, device=device)[None] % layer.in_features
    hook = layer.register_forward_hook(replace)
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
            hidden = inner.base_model(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
    same_output = torch.equal(logits, replacement.expand_as(logits))
    return same_output and len(inputs) == 1 and torch.equal(inputs[0], hidden)
