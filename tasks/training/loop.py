"""One optimizer step over a window of prompts, and the check that the first one must pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from storage.errors import UserError
from tasks.training.batching import microbatches, response_logprobs
from tasks.training.groups import PromptGroup
from tasks.training.objectives import PairLoss

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


class Referenced(NamedTuple):
    """A prompt group and the reference's log-probabilities of its responses, float64 [K]."""

    group: PromptGroup
    reference: np.ndarray


@dataclass(frozen=True)
class WindowResult:
    """Means over the window's pairs by name, and the largest |h| / sqrt(response tokens); all 0-dim float64 tensors."""

    means: dict[str, Tensor]
    largest_ratio: Tensor
    pairs: int
    tokens: int


def accumulate(
    model: "PreTrainedModel",
    window: Sequence[Referenced],
    loss: PairLoss,
    *,
    tokens: int,
    accelerator: "Accelerator",
) -> WindowResult:
    """Add the gradient of the mean loss over the window's pairs, in micro-batches of at most `tokens` padded tokens.

    Each response is forwarded once, and all its pairs take its log-probability from there. Micro-batches are whole
    groups and every term is divided by the pairs of the whole window, so the split changes nothing but rounding.
    """
    groups = [item.group for item in window]
    pairs = sum(len(group.pairs) for group in groups)
    totals: dict[str, Tensor] = {}
    ratios: list[Tensor] = []
    for batch in microbatches(groups, tokens):
        part = _Columns.of([window[i] for i in batch], accelerator.device)
        with accelerator.autocast():
            logprobs = response_logprobs(model, [groups[i] for i in batch])
        h = logprobs - part.reference
        h_chosen, h_rejected = h[part.chosen], h[part.rejected]
        losses, metrics = loss(h_chosen, h_rejected, part.labels)
        accelerator.backward(losses.sum() / pairs)
        metrics |= {"loss": losses, "h_chosen": h_chosen, "h_rejected": h_rejected, "label": part.labels}
        for name, values in metrics.items():
            totals[name] = totals.get(name, 0) + values.detach().sum() / pairs
        ratios.append((h.detach().abs() / part.lengths.sqrt()).max())
    return WindowResult(totals, torch.stack(ratios).max(), pairs, sum(group.tokens for group in groups))


class _Columns(NamedTuple):
    """A micro-batch's numbers: per response reference and length (float64 [R]), per pair positions and label [N]."""

    reference: Tensor
    lengths: Tensor
    chosen: Tensor
    rejected: Tensor
    labels: Tensor

    @classmethod
    def of(cls, items: Sequence[Referenced], device: torch.device) -> "_Columns":
        starts = np.cumsum([0, *(len(item.group.responses) for item in items)])
        pairs = [
            (start + pair.chosen, start + pair.rejected, pair.label)
            for start, item in zip(starts[:-1], items, strict=True)
            for pair in item.group.pairs
        ]
        chosen, rejected, labels = zip(*pairs, strict=True)
        lengths = [len(response) for item in items for response in item.group.responses]
        return cls(
            torch.from_numpy(np.concatenate([item.reference for item in items])).to(device),
            torch.tensor(lengths, dtype=torch.float64, device=device),
            torch.tensor(chosen, device=device),
            torch.tensor(rejected, device=device),
            torch.tensor(labels, dtype=torch.float64, device=device),
        )


#: By dtype: largest |h| / sqrt(response tokens) at the start in nats, and relative deviation of the first loss.
#: float32 forwards of other batch shapes differ by 1e-6 a token; bfloat16 ones by 1e-2 (findings: 2e-3 .. 2e-2).
FIRST_STEP = {"float32": (1e-3, 1e-4), "bfloat16": (0.1, 0.1)}


def check_first_step(result: WindowResult, loss: PairLoss, labels: Sequence[float], dtype: str) -> None:
    """Refuse to train when a policy that *is* the reference does not start at log-ratio 0.

    Then the policy's forward and the reference's are not the same function (adapters that are not neutral, another
    precision or kernel, dropout, wrong alignment of tokens), and every target would be off by the difference. Of iREPO
    the first loss must be mean(target^2). Raises UserError.
    """
    allowed, relative = FIRST_STEP[dtype]
    zero = torch.zeros(len(labels), dtype=torch.float64)
    expected = float(loss(zero, zero, torch.tensor(labels, dtype=torch.float64))[0].mean())
    largest, first = float(result.largest_ratio), float(result.means["loss"])
    if largest < allowed and abs(first - expected) <= relative * expected + 1e-6:
        return
    raise UserError(
        "before the first update the policy is the reference, but they do not agree: "
        f"|log-ratio| / sqrt(tokens) is up to {largest:.2e} (allowed {allowed:g}) and the first loss is {first:.6g} "
        f"(expected {expected:.6g} within {relative:g})",
        where="first training step",
        remedy="delete reference.parquet of the stage and run it again; if it stays, train in float32 and check that "
        "the model has no noise (dropout, routing) in its forward",
    )
