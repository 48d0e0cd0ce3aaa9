"""The unit of training data: a prompt with its responses, each once, and the labelled pairs among them."""

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
    groups: dict[tuple[int, str], PromptGroup] = {}
    left_out: Counter[str] = Counter()
    first = 0
    try:
        for data in read_row_groups(path, PREFERENCES, columns):
            _add(groups, left_out, data, path, first, ties=ties)
            first += len(data)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(
            f"the preferences cannot be read: {error}",
            where=str(path),
            remedy="run the label stage of this round again",
        ) from None
    if not groups:
        raise UserError(
            "there is no labelled pair of different responses to train on",
            where=str(path),
            remedy="sample more responses or prompts, raise the temperature, or loosen the filters of the label stage",
        )
    return Preferences(list(groups.values()), left_out["identical"], left_out["tied"])


def _add(
    groups: dict[tuple[int, str], PromptGroup],
    left_out: Counter[str],
    data: pa.Table,
    path: Path,
    first: int,
    *,
    ties: bool,
) -> None:
    """Add the pairs of some rows, of which the first is row `first` of the file. Nothing of `data` is kept alive."""
    prompt_ids, chosen_ids, rejected_ids = (_arrays(data, name) for name in _COLUMNS[-3:])
    keys = (data[name].to_pylist() for name in _COLUMNS[:5])
    for at, (prompt_id, round_number, chosen, rejected, value) in enumerate(zip(*keys, strict=True)):
        row = first + at
        if not np.isfinite(value):
            raise _refuse(f"target is {value}", path, row)
        if np.array_equal(chosen_ids[at], rejected_ids[at]):
            left_out["identical"] += 1
            continue
        if value == 0 and not ties:
            left_out["tied"] += 1
            continue
        group = groups.get((round_number, prompt_id))
        if group is None:
            said = data["prompt"][at].as_py() if "prompt" in data.column_names else []
            group = PromptGroup(prompt_id, round_number, prompt_ids[at].copy(), [], [], [], said)
            groups[round_number, prompt_id] = group
        better = _position(group, chosen, chosen_ids[at], path, row)
        worse = _position(group, rejected, rejected_ids[at], path, row)
        group.pairs.append(Pair(better, worse, value))


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
    group.responses.append(ids.copy())
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
