"""Training examples: a prompt group with everything that its loss reads. `collate` makes a batch of several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.training.groups import EXTRA, PromptGroup, copy_index
from tasks.training.label_columns import LabeledGroup
from tasks.training.objectives.batch import Batch, TokenColumns
from tasks.training.reference import Logprobs


@dataclass(frozen=True)
class Example:
    """A labeled prompt group with log-probabilities of its responses under the reference and the previous policy."""

    labeled: LabeledGroup
    reference: Logprobs
    previous: Logprobs | None = None
    embedding: np.ndarray | None = None  # [E], of the prompt
    differing: Sequence[tuple[list[int], list[int]]] | None = None  # per pair: positions of the tokens that differ

    @property
    def group(self) -> PromptGroup:
        return self.labeled.group


def collate(examples: Sequence[Example], device: torch.device, annotators: tuple[str, ...] = ()) -> Batch:
    """One batch of the examples. Its policy log-probabilities are the reference's: replace them with `Batch.at`."""
    groups = [example.group for example in examples]
    sizes = [len(group.responses) for group in groups]
    starts = np.cumsum([0, *sizes])
    pairs = [
        (start + pair.chosen, start + pair.rejected, pair.label)
        for start, group in zip(starts[:-1], groups, strict=True)
        for pair in group.pairs
    ]
    chosen, rejected, labels = zip(*pairs, strict=True)

    def column(values: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(values)).to(device)

    reference = column([example.reference.sums for example in examples])
    previous = [example.previous.sums for example in examples if example.previous is not None]
    vectors = [example.embedding for example in examples if example.embedding is not None]
    extra = [start + size - 1 for start, size, group in zip(starts, sizes, groups, strict=False) if _has_extra(group)]
    labeled = [example.labeled for example in examples]
    return Batch(
        logprobs=reference,
        reference=reference,
        lengths=torch.tensor(
            [len(response) for group in groups for response in group.responses], dtype=torch.float64, device=device
        ),
        owner=torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(sizes)).to(device),
        chosen=torch.tensor(chosen, device=device),
        rejected=torch.tensor(rejected, device=device),
        labels=torch.tensor(labels, dtype=torch.float64, device=device),
        previous=column(previous) if previous else None,
        pairs={name: column([group.pairs[name] for group in labeled]) for name in labeled[0].pairs},
        responses={name: column([group.responses[name] for group in labeled]) for name in labeled[0].responses},
        embeddings=column([vector[None] for vector in vectors]) if vectors else None,
        extra=torch.tensor(extra, device=device) if extra else None,
        copies=_copies(groups, device),
        tokens=_tokens(examples, device) if examples[0].reference.tokens is not None else None,
        annotators=annotators,
    )


def _copies(groups: Sequence[PromptGroup], device: torch.device) -> Tensor | None:
    """The response that is the copy of each response, [R]; of a copy, itself. None without copies."""
    places: list[int] = []
    for group in groups:
        first = len(places)
        place = {index: first + number for number, index in enumerate(group.indices)}
        places += [place.get(copy_index(index), at) if index >= 0 else at for index, at in place.items()]
    return torch.tensor(places, device=device) if places != list(range(len(places))) else None


def _has_extra(group: PromptGroup) -> bool:
    return group.indices[-1] == EXTRA


def _tokens(examples: Sequence[Example], device: torch.device) -> TokenColumns:
    lengths = [len(response) for example in examples for response in example.group.responses]
    starts = np.cumsum([0, *lengths])
    changed: tuple[list[int], list[int]] = [], []
    owners: tuple[list[int], list[int]] = [], []
    first = pair_number = 0
    for example in examples:
        for pair, ends in zip(example.group.pairs, example.differing or [], strict=False):
            for side, response in enumerate((pair.chosen, pair.rejected)):
                changed[side].extend(starts[first + response] + position for position in ends[side])
                owners[side].extend([pair_number] * len(ends[side]))
            pair_number += 1
        first += len(example.group.responses)

    def integers(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    def flat(parts: Sequence[Logprobs | None]) -> Tensor | None:
        tokens = [token for part in parts if part is not None for token in part.tokens or []]
        return torch.from_numpy(np.concatenate(tokens)).to(device) if tokens else None

    reference = flat([example.reference for example in examples])
    assert reference is not None
    return TokenColumns(
        policy=reference,
        reference=reference,
        previous=flat([example.previous for example in examples]),
        owner=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device),
        chosen=(integers(changed[0]), integers(owners[0])),
        rejected=(integers(changed[1]), integers(owners[1])),
    )
