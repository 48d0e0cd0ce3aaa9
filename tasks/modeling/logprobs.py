"""Log-probabilities of responses under a policy, in batches of similar length. Used in training and evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from storage.stage import Progress, silent
from tasks.modeling.forwards import batched, forwards
from tasks.modeling.head import base_model, head_logprobs, output_layer
from tasks.modeling.positions import check_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TokenSequence:
    """One response after its prompt, as token ids."""

    prompt: Sequence[int] | np.ndarray
    response: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def batches(sequences: Sequence[TokenSequence], tokens: int) -> list[list[int]]:
    """Indices of `sequences`, longest first, in batches of at most `tokens` padded tokens, or of one sequence."""
    return batched([len(sequence) for sequence in sequences], tokens)


def token_logprobs(model: "PreTrainedModel", rows: Sequence[TokenSequence]) -> list[torch.Tensor]:
    """log p(token | all tokens before it) of every response token, nats: one tensor [len(response)] per row.

    float32, or float64 for a float64 model. Differentiable once. The output layer runs on the positions that predict a
    response token only, in chunks (`tasks.modeling.head`). A model that also soft-caps or scales its logits uses its
    own head on the last positions: rows are left-padded, so that responses end at the same position. Raises UserError
    for a row beyond the model's position limit.
    """
    device = next(model.parameters()).device
    width = max(len(row) for row in rows)
    check_length(model.config, width)
    longest = max(len(row.response) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    predicting = torch.zeros((len(rows), longest), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.from_numpy(np.concatenate([row.prompt, row.response]).astype(np.int64))
        mask[i, width - len(row) :] = 1
        predicting[i, longest - len(row.response) :] = True
    inputs = {
        "input_ids": ids.to(device),
        "attention_mask": mask.to(device),
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0).to(device),
        "use_cache": False,
    }
    predicting = predicting.to(device)
    targets = torch.from_numpy(np.concatenate([row.response for row in rows]).astype(np.int64)).to(device)
    head = output_layer(model)
    if head is not None:
        hidden = base_model(model).base_model(**inputs).last_hidden_state[:, -longest - 1 : -1]
        flat = head_logprobs(hidden[predicting], head.weight, head.bias, targets)
    else:
        logits = model(**inputs, logits_to_keep=longest + 1).logits[:, :-1][predicting]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        flat = -F.cross_entropy(logits, targets, reduction="none")
    return list(flat.split([len(row.response) for row in rows]))


def summed_logprobs(model: "PreTrainedModel", rows: Sequence[TokenSequence]) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(response | prompt) of each row, [len(rows)], and log p of each token, [all tokens], row after row.

    float64, nats, differentiable.
    """
    flat = torch.cat(token_logprobs(model, rows)).double()
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row.response) for row in rows]))
    sums = torch.zeros(len(rows), dtype=flat.dtype, device=flat.device)
    return sums.index_add(0, owner.to(flat.device), flat), flat


def sequence_logprobs(
    model: "PreTrainedModel",
    sequences: Sequence[TokenSequence],
    *,
    tokens: int,
    progress: Progress = silent,
) -> np.ndarray:
    """Summed response log-probability of each sequence, float64 [len(sequences)], nats; no gradient.

    `tokens` bounds the padded tokens of one forward, on a CPU of all forwards at a time (tasks/modeling/forwards.py).
    Raises FloatingPointError if a sum is not finite.
    """
    sums = np.full(len(sequences), -np.inf)

    def summed(copy: "PreTrainedModel", batch: list[int]) -> list[float]:
        rows = token_logprobs(copy, [sequences[i] for i in batch])
        values: list[float] = torch.stack([logprobs.double().sum() for logprobs in rows]).tolist()  # one transfer
        return values

    done = 0
    for batch, values in forwards(model, [len(sequence) for sequence in sequences], tokens, summed):
        sums[batch] = values
        done += len(batch)
        progress(done, len(sequences), "responses")
    if not np.isfinite(sums).all():
        raise FloatingPointError(f"{int((~np.isfinite(sums)).sum())} of {len(sums)} log-probabilities are not finite")
    return sums
