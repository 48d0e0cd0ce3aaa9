"""Prompt groups in one row: [x, y1 .. yK] of one group after another, positions restarting after each x for every y.

The prompt and each response are computed once, whatever the number of pairs. A response's last token predicts nothing
and is left out of the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from tasks.training.groups import PromptGroup


def packed_tokens(group: PromptGroup) -> int:
    """Tokens that a group takes in a row."""
    return len(group.prompt_ids) + sum(len(response) - 1 for response in group.responses)


def first_fit(groups: Sequence[PromptGroup], tokens: int) -> list[list[int]]:
    """Indices of `groups` in rows of at most `tokens` tokens: the largest first, each into the first row with room.

    A group is never cut; one that is larger than `tokens` has a row of its own.
    """
    sizes = [packed_tokens(group) for group in groups]
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(groups)), key=lambda i: (-sizes[i], i)):
        place = next((i for i, left in enumerate(room) if left >= sizes[index]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(tokens)
        rows[place].append(index)
        room[place] -= sizes[index]
    return rows


def causal(length: int, device: torch.device, window: int | None = None) -> Tensor:
    """Which of `length` positions sees which, bool [length, length]."""
    place = torch.arange(length, device=device)
    seen = place[:, None] >= place
    return seen if window is None else seen & (place[:, None] - place < window)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added to scores: 0 where `seen`, else the lowest number (padding that sees nothing stays one)."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


@dataclass(frozen=True)
class Segment:
    """Where a group lies in its row: `prompt` tokens, then those of each response."""

    prompt: int
    responses: tuple[int, ...]


@dataclass(frozen=True)
class PackedRow:
    """One row of T tokens that predicts N response tokens; what attention must know to keep its segments apart.

    Goes through the model's forward as a keyword argument, so that whatever calls layers again finds it again.
    """

    segments: tuple[Segment, ...]
    ids: Tensor  # int64 [1, T]
    positions: Tensor  # int64 [1, T]
    predicting: Tensor  # int64 [N], place of the token that predicts each response token, response after response
    targets: Tensor  # int64 [N]
    lengths: tuple[int, ...]  # tokens of each response
    _masks: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, groups: Sequence[PromptGroup], device: torch.device) -> "PackedRow":
        """The groups one after another. A prompt has at least one token."""
        ids: list[np.ndarray] = []
        positions: list[np.ndarray] = []
        predicting: list[np.ndarray] = []
        start = 0
        for group in groups:
            prompt = len(group.prompt_ids)
            ids.append(group.prompt_ids)
            positions.append(np.arange(prompt))
            last, start = start + prompt - 1, start + prompt
            for response in group.responses:
                inside = len(response) - 1
                ids.append(response[:-1])
                positions.append(np.arange(prompt, prompt + inside))
                predicting.append(np.concatenate([[last], np.arange(start, start + inside)]))
                start += inside
        responses = [response for group in groups for response in group.responses]

        def integers(parts: Sequence[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

        return cls(
            tuple(Segment(len(g.prompt_ids), tuple(len(response) - 1 for response in g.responses)) for g in groups),
            integers(ids)[None],
            integers(positions)[None],
            integers(predicting),
            integers(responses),
            tuple(len(response) for response in responses),
        )

    @cached_property
    def owner(self) -> Tensor:
        """The response of each predicted token, int64 [N]."""
        lengths = torch.tensor(self.lengths, device=self.ids.device)
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.ids.device), lengths)

    def mask(self, queries: int, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask [queries, keys]: each of the last `queries` of `keys` positions sees itself and those before
        it, at most `window` of them in all. Made once for all layers."""
        known = (queries, keys, window, dtype)
        if known not in self._masks:
            self._masks[known] = additive(causal(keys, self.ids.device, window)[keys - queries :], dtype)
        return self._masks[known]

    def whole_mask(self, window: int | None = None) -> Tensor:
        """Which tokens of the row see which, bool [1, 1, T, T], for models that take a mask."""
        sizes = torch.tensor([size for each in self.segments for size in (each.prompt, *each.responses)])
        groups = torch.repeat_interleave(torch.tensor([1 + len(each.responses) for each in self.segments]))
        prompts = torch.searchsorted(groups, groups)  # the part that is the prompt of each part
        part = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        order = torch.arange(len(part))
        seen = (order[:, None] >= order) & ((part[:, None] == part) | (prompts[part][:, None] == part))
        seen = seen.to(self.ids.device)
        if window is not None:
            seen &= self.positions[0][:, None] - self.positions[0] < window
        return seen[None, None]

    @cached_property
    def variable_length(self) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[int, int]]:
        """For variable-length attention, where each part's queries have the keys of its prompt before its own.

        Places of all keys; where each part's queries and keys start (int32, with the end); the most of either.
        """
        places: list[Tensor] = []
        queries: list[int] = []
        keys: list[int] = []
        start = 0
        for segment in self.segments:
            prompt = torch.arange(start, start + segment.prompt)
            places.append(prompt)
            queries.append(segment.prompt)
            keys.append(segment.prompt)
            start += segment.prompt
            for size in segment.responses:
                places += [prompt, torch.arange(start, start + size)]
                queries.append(size)
                keys.append(segment.prompt + size)
                start += size
        device = self.ids.device
        starts = [torch.tensor([0, *accumulate(sizes)], dtype=torch.int32).to(device) for sizes in (queries, keys)]
        return torch.cat(places).to(device), (starts[0], starts[1]), (max(queries), max(keys))
