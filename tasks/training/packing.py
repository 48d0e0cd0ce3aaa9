"""Several prompt groups in one row: [x, y1 .. yK] of each group. Positions of every y continue from the end of x.

The prompt and each response are computed once, regardless of the number of pairs. A response's last token predicts
nothing, so the row omits it.
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
    """Tokens that a group takes in a packed row."""
    return len(group.prompt_ids) + sum(len(response) - 1 for response in group.responses)


def first_fit(groups: Sequence[PromptGroup], tokens: int) -> list[list[int]]:
    """First-fit decreasing: indices of `groups` in rows of at most `tokens` tokens.

    A group is never split; a group with more than `tokens` tokens gets its own row.
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
    """Causal mask with an optional sliding window, bool [length, length]; true where query (row) attends to key."""
    position = torch.arange(length, device=device)
    visible = position[:, None] >= position
    return visible if window is None else visible & (position[:, None] - position < window)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask: 0 where `visible`, else the dtype's lowest finite number, so fully masked rows give no NaN."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


@dataclass(frozen=True)
class Segment:
    """Token counts of a group in its row: `prompt`, then each response."""

    prompt: int
    responses: tuple[int, ...]


def _on_device(arrays: Sequence[Sequence[np.ndarray]], device: torch.device) -> list[Tensor]:
    """The concatenation of each of `arrays` as int64 on `device`, in one copy that a GPU makes beside other work."""
    flat = torch.from_numpy(np.concatenate([part for parts in arrays for part in parts]).astype(np.int64))
    sizes = [sum(len(part) for part in parts) for parts in arrays]
    if device.type == "cuda":  # not run on a GPU
        flat = flat.pin_memory()
    return list(flat.to(device, non_blocking=device.type == "cuda").split(sizes))


@dataclass(frozen=True)
class PackedRow:
    """One row of T tokens that predicts N response tokens, with the layout that attention needs.

    It travels through the model's forward as a keyword argument, so recomputed layers receive it too.
    """

    segments: tuple[Segment, ...]
    ids: Tensor  # int64 [1, T]
    positions: Tensor  # int64 [1, T]
    predicting: Tensor  # int64 [N], index of the token that predicts each response token
    targets: Tensor  # int64 [N]
    lengths: tuple[int, ...]  # tokens of each response
    _masks: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, groups: Sequence[PromptGroup], device: torch.device) -> "PackedRow":
        """A row of `groups`. Every prompt needs at least one token."""
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

        row_ids, row_positions, places, targets = _on_device([ids, positions, predicting, responses], device)
        return cls(
            tuple(Segment(len(g.prompt_ids), tuple(len(response) - 1 for response in g.responses)) for g in groups),
            row_ids[None],
            row_positions[None],
            places,
            targets,
            tuple(len(response) for response in responses),
        )

    @cached_property
    def owner(self) -> Tensor:
        """Index of the response that each predicted token belongs to, int64 [N]."""
        lengths = torch.tensor(self.lengths, device=self.ids.device)
        owners = torch.arange(len(self.lengths), device=self.ids.device)
        # Without the size, the host would wait for the device to know it.
        return torch.repeat_interleave(owners, lengths, output_size=sum(self.lengths))

    def mask(self, queries: int, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive causal mask [queries, keys] for the last `queries` of `keys` positions; cached for all layers.

        With `window`, a query attends to at most `window` keys, including itself.
        """
        key = (queries, keys, window, dtype)
        if key not in self._masks:
            self._masks[key] = additive(causal(keys, self.ids.device, window)[keys - queries :], dtype)
        return self._masks[key]

    def whole_mask(self, window: int | None = None) -> Tensor:
        """Mask of the whole row, bool [1, 1, T, T], for models without custom attention; true where row attends.

        A part is a prompt or a response. Tokens attend to earlier tokens of their own part and of its prompt.
        """
        sizes = torch.tensor([size for segment in self.segments for size in (segment.prompt, *segment.responses)])
        groups = torch.repeat_interleave(torch.tensor([1 + len(segment.responses) for segment in self.segments]))
        prompts = torch.searchsorted(groups, groups)  # the prompt's part of each part
        part = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        order = torch.arange(len(part))
        visible = (order[:, None] >= order) & ((part[:, None] == part) | (prompts[part][:, None] == part))
        visible = visible.to(self.ids.device)
        if window is not None:
            visible &= self.positions[0][:, None] - self.positions[0] < window
        return visible[None, None]

    @cached_property
    def variable_length(self) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[int, int]]:
        """Layout for variable-length attention, where a response's keys are those of its prompt and its own.

        Returns the row index of every key; cumulative query and key counts per part (int32, from 0 to the total); the
        largest query and key counts.
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
