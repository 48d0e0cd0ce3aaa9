"""The unit of training data: a prompt with its responses, each once, and the labelled pairs among them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from storage.errors import UserError
from storage.schemas import PREFERENCES, read_parquet

_COLUMNS = [
    "prompt_id",
    "round",
    "chosen_index",
    "rejected_index",
    "target",
    "prompt_ids",
    "chosen_ids",
    "rejected_ids",
]

#: response_index of a prompt's extra response, which is in no pair.
EXTRA = -1


class Pair(NamedTuple):
    """Positions of two responses in their group, and the logit of the empirical preference of chosen over rejected."""

    chosen: int
    rejected: int
    label: float


@dataclass(frozen=True)
class PromptGroup:
    """A prompt (of the round that sampled it), its K distinct responses as int32 token ids, and its pairs.

    An extra response, where the objective needs one, is the last, with the index EXTRA.
    """

    prompt_id: str
    round: int
    prompt_ids: np.ndarray
    indices: list[int]  # response_index of each response
    responses: list[np.ndarray]
    pairs: list[Pair]
    messages: list[dict[str, str]] = field(default_factory=list)  # the prompt as a conversation, where it is asked for

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt + response."""
        return len(self.prompt_ids) + max(len(response) for response in self.responses)

    @property
    def tokens(self) -> int:
        """Tokens of all prompt + response sequences."""
        return sum(len(self.prompt_ids) + len(response) for response in self.responses)


@dataclass(frozen=True)
class Preferences:
    """What was read: groups in the order of the file, and how many pairs were left out: of equal responses, ties."""

    groups: list[PromptGroup]
    identical_pairs: int
    tied_pairs: int = 0

    @property
    def pairs(self) -> int:
        return sum(len(group.pairs) for group in self.groups)

    @property
    def responses(self) -> int:
        return sum(len(group.responses) for group in self.groups)


def read_preferences(path: Path, *, ties: bool = True, messages: bool = False) -> Preferences:
    """Prompt groups of a preferences.parquet, with targets on the pairs and, if asked for, the prompts' messages.

    A pair whose responses are the same tokens has no gradient and is left out (and counted); so is, without `ties`, a
    pair whose target is 0: which of the two is called chosen says nothing then. Raises UserError for a file that is
    missing or of another schema, for one without pairs, for an empty response, a target that is not finite, and for a
    response index that stands for two different token sequences.
    """
    columns = [*_COLUMNS, "prompt"] if messages else _COLUMNS
    try:
        data = read_parquet(path, PREFERENCES, columns)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(
            f"the preferences cannot be read: {error}",
            where=str(path),
            remedy="run the label stage of this round again",
        ) from None
    prompt_ids, chosen_ids, rejected_ids = (_arrays(data, name) for name in _COLUMNS[-3:])
    groups: dict[tuple[int, str], PromptGroup] = {}
    identical = tied = 0
    keys = (data[name].to_pylist() for name in _COLUMNS[:5])
    for row, (prompt_id, round_number, chosen, rejected, value) in enumerate(zip(*keys, strict=True)):
        if not np.isfinite(value):
            raise _refuse(f"target is {value}", path, row)
        if np.array_equal(chosen_ids[row], rejected_ids[row]):
            identical += 1
            continue
        if value == 0 and not ties:
            tied += 1
            continue
        group = groups.get((round_number, prompt_id))
        if group is None:
            said = data["prompt"][row].as_py() if messages else []
            group = groups[round_number, prompt_id] = PromptGroup(
                prompt_id, round_number, prompt_ids[row], [], [], [], said
            )
        first = _position(group, chosen, chosen_ids[row], path, row)
        second = _position(group, rejected, rejected_ids[row], path, row)
        group.pairs.append(Pair(first, second, value))
    if not groups:
        raise UserError(
            "there is no labelled pair of different responses to train on",
            where=str(path),
            remedy="sample more responses or prompts, raise the temperature, or loosen the filters of the label stage",
        )
    return Preferences(list(groups.values()), identical, tied)


def _arrays(data: pa.Table, name: str) -> list[np.ndarray]:
    """The rows of a list<int32> column as int32 arrays."""
    column = data[name].combine_chunks()
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]


def _position(group: PromptGroup, index: int, ids: np.ndarray, path: Path, row: int) -> int:
    """Where response `index` stands in its group; added when it is new."""
    if index in group.indices:
        position = group.indices.index(index)
        if not np.array_equal(group.responses[position], ids):
            raise _refuse(f"response {index} of prompt {group.prompt_id} has other tokens than before", path, row)
        return position
    if not len(ids):
        raise _refuse(f"response {index} of prompt {group.prompt_id} has no tokens", path, row)
    group.indices.append(index)
    group.responses.append(ids)
    return len(group.indices) - 1


def _refuse(what: str, path: Path, row: int) -> UserError:
    return UserError(
        what, where=f"{path}, row {row + 1}", remedy="run the generate and label stages of the round again"
    )


def windows(groups: int, prompts_per_step: int, *, seed: int, epoch: int) -> Iterator[list[int]]:
    """Group indices of each optimizer step of an epoch: a seeded order of its own, cut; the last may be smaller."""
    order = np.random.default_rng((seed, epoch)).permutation(groups).tolist()
    for start in range(0, groups, prompts_per_step):
        yield order[start : start + prompts_per_step]
