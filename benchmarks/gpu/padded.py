"""DPO as a short script has it: chosen and rejected in padded batches, all logits, plain transformers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.ours import pace
from tasks.training.groups import PromptGroup

BATCH = 4  # pairs in a forward
BETA = 0.1


class PairIds(NamedTuple):
    """Token ids of a pair, int32."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    @property
    def longest(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def padded_step(bench: Bench, name: str, groups: Sequence[PromptGroup], *, by_length: bool = False) -> Row:
    """One optimizer step over the pairs of `groups`, under autocast, with cached reference; in batches of BATCH pairs.

    by_length: pairs of similar length share a batch.
    """
    pairs = [PairIds(g.prompt_ids, g.responses[p.chosen], g.responses[p.rejected]) for g in groups for p in g.pairs]
    if by_length:
        pairs.sort(key=lambda pair: -pair.longest)
    batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    with bench.memory() as gib:
        model = bench.model(name)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-7, fused=True)

        def logprobs(batch: Sequence[PairIds]) -> Tensor:
            """Summed log-probabilities of chosen and rejected responses, [2 * pairs]."""
            ids, mask, response = (part.to(bench.device) for part in _padded(batch))
            with bench.autocast():
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            losses = cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
            return -(losses * response[:, 1:]).sum(1)

        with torch.no_grad():
            references = [logprobs(batch) for batch in batches]

        def step() -> None:
            for batch, reference in zip(batches, references, strict=True):
                ratio = (logprobs(batch) - reference).view(-1, 2)
                loss = -logsigmoid(BETA * (ratio[:, 0] - ratio[:, 1])).sum() / len(pairs)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        seconds = bench.seconds(step)
    return pace(bench, name, groups, seconds, gib)


def _padded(batch: Sequence[PairIds]) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, attention mask and mask of response tokens, int64 [2 * pairs, longest]."""
    rows = [
        (len(pair.prompt), np.concatenate([pair.prompt, response]))
        for pair in batch
        for response in (pair.chosen, pair.rejected)
    ]
    ids = torch.zeros(len(rows), max(len(row) for _, row in rows), dtype=torch.long)
    mask, response_mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, (prompt, row) in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
        mask[i, : len(row)] = 1
        response_mask[i, prompt : len(row)] = 1
    return ids, mask, response_mask
