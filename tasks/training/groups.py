"""The unit of training data: a prompt, its distinct responses, and the labeled pairs among them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from storage.errors import UserError
from storage.schemas import PREFERENCES, read_row_groups

_COLUMNS = [
    "prompt_id",
    "round",
    "chosen_index",
    "rejected_index",
    "target",
    "target_se",
    "prompt_ids",
    "chosen_ids",
    "rejected_ids",
]

#: The goal of the prompts that are sampled, as mixing.goals writes it at the end of a relabelled prompt's id.
HIGHEST_GOAL = 10.0

#: response_index of a prompt's extra response, which is part of no pair.
EXTRA = -1


def copy_index(index: int) -> int:
    """response_index of the copy of response `index` (`tasks.training.degrees`), which is part of no pair either."""
    return EXTRA - 1 - index


class Pair(NamedTuple):
    """Positions of two responses in their group, and the logit of the empirical preference for chosen over rejected.

    se: standard error of the label; NaN where it is not known.
    """

    chosen: int
    rejected: int
    label: float
    se: float = float("nan")


@dataclass(frozen=True)
class PromptGroup:
    """A prompt of one round, its K distinct responses as int32 token ids, and its pairs.

    If the objective needs an extra response, it is the last one, with index EXTRA; copies of responses follow them all.
    Both have negative indices.
    """

    prompt_id: str
    round: int  # that sampled the responses
    prompt_ids: np.ndarray
    indices: list[int]  # response_index of each response
    responses: list[np.ndarray]
    pairs: list[Pair]
    messages: list[dict[str, str]] = field(default_factory=list)  # the prompt as a conversation; empty unless read

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt + response."""
        return len(self.prompt_ids) + max(len(response) for response in self.responses)

    @property
    def tokens(self) -> int:
        """Tokens of all prompt + response sequences."""
        return sum(len(self.prompt_ids) + len(response) for response in self.responses)


@dataclass(frozen=True)
class PreferenceData:
    """Prompt groups in the order of the file, and counts of the pairs that were skipped."""

    groups: list[PromptGroup]
    identical_pairs: int  # both responses have the same tokens
    tied_pairs: int = 0

    @property
    def pairs(self) -> int:
        return sum(len(group.pairs) for group in self.groups)

    @property
    def responses(self) -> int:
        return sum(len(group.responses) for group in self.groups)


def read_preferences(path: Path, *, ties: bool = True, messages: bool = False) -> PreferenceData:
    """Prompt groups of a preferences.parquet with targets on the pairs and, with `messages`, the prompts' messages.

    A pair of identical responses has no gradient: it is skipped and counted. Without `ties`, so is a pair whose target
    is 0: its order is arbitrary. Raises UserError for a file that is missing or has another schema, for no pairs, for
    an empty response, for a target that is not finite, and for a response index with two different token sequences.
    """
    columns = [*_COLUMNS, "prompt"] if messages else _COLUMNS
    groups: dict[tuple[int, str], PromptGroup] = {}
    skipped: Counter[str] = Counter()
    first = 0
    try:
        for data in read_row_groups(path, PREFERENCES, columns):
            _add(groups, skipped, data, path, first, ties=ties)
            first += len(data)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(
            f"the preferences cannot be read: {error}",
            where=str(path),
            remedy="run the label stage of this round again",
        ) from None
    if not groups:
        raise UserError(
            "there is no labeled pair of different responses to train on",
            where=str(path),
            remedy="sample more responses or prompts, raise the temperature, or relax the filters of the label stage; "
            "with overwrite=true, because finished stages are then made again",
        )
    return PreferenceData(list(groups.values()), skipped["identical"], skipped["tied"])


def _add(
    groups: dict[tuple[int, str], PromptGroup],
    skipped: Counter[str],
    data: pa.Table,
    path: Path,
    first: int,
    *,
    ties: bool,
) -> None:
    """Add the pairs of `data`, whose first row is row `first` of the file. Copies arrays, so `data` can be freed."""
    prompt_ids, chosen_ids, rejected_ids = (_arrays(data, name) for name in _COLUMNS[-3:])
    keys = (data[name].to_pylist() for name in _COLUMNS[:6])
    for at, (prompt_id, round_number, chosen, rejected, target, se) in enumerate(zip(*keys, strict=True)):
        row = first + at
        if not np.isfinite(target):
            raise _refuse(f"target is {target}", path, row)
        if np.array_equal(chosen_ids[at], rejected_ids[at]):
            skipped["identical"] += 1
            continue
        if target == 0 and not ties:
            skipped["tied"] += 1
            continue
        group = groups.get((round_number, prompt_id))
        if group is None:
            messages = data["prompt"][at].as_py() if "prompt" in data.column_names else []
            group = PromptGroup(prompt_id, round_number, prompt_ids[at].copy(), [], [], [], messages)
            groups[round_number, prompt_id] = group
        first_position = _position(group, chosen, chosen_ids[at], path, row)
        second_position = _position(group, rejected, rejected_ids[at], path, row)
        group.pairs.append(Pair(first_position, second_position, target, se))


def _arrays(data: pa.Table, name: str) -> list[np.ndarray]:
    """The rows of a list<int32> column as int32 arrays."""
    column = data[name].combine_chunks()
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]


def _position(group: PromptGroup, index: int, ids: np.ndarray, path: Path, row: int) -> int:
    """Position of response `index` in its group; a new response is added."""
    if index in group.indices:
        position = group.indices.index(index)
        if not np.array_equal(group.responses[position], ids):
            raise _refuse(f"response {index} of prompt {group.prompt_id} has other tokens than before", path, row)
        return position
    if not len(ids):
        raise _refuse(f"response {index} of prompt {group.prompt_id} has no tokens", path, row)
    group.indices.append(index)
    group.responses.append(ids.copy())
    return len(group.indices) - 1


def _refuse(what: str, path: Path, row: int) -> UserError:
    return UserError(
        what, where=f"{path}, row {row + 1}", remedy="run the generate and label stages of the round again"
    )


def windows(groups: int, prompts_per_step: int, *, seed: int, epoch: int) -> Iterator[list[int]]:
    """Group indices of each optimizer step of an epoch, in a seeded order per epoch. The last step may be smaller."""
    order = np.random.default_rng((seed, epoch)).permutation(groups).tolist()
    for start in range(0, groups, prompts_per_step):
        yield order[start : start + prompts_per_step]
