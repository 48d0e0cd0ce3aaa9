"""Votes as arrays, the input of every estimator."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, Floats, Ints

_OUTCOMES = pa.array(["a", "b", "tie"])
_SHARES = np.array([1.0, 0.0, 0.5])


@dataclass(frozen=True)
class Votes:
    """Votes that count, all [n]. `share` in [0, 1] is the part of a vote that goes to `first`; 0.5 for a tie.

    Integers may have a narrow dtype; `block` widens them.
    """

    prompt: Ints
    first: Ints  # slots, first < second
    second: Ints
    annotator: Ints
    share: Floats
    weight: Floats
    ranked: Bools  # whether the vote is part of a ranking

    def __len__(self) -> int:
        return len(self.prompt)

    def take(self, chosen: Bools | Ints | slice) -> "Votes":
        """The votes at `chosen`."""
        return Votes(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def block(self, start: int, stop: int) -> "Votes":
        """The votes on prompts start .. stop-1, numbered from `start`. Votes must be sorted by prompt."""
        low, high = np.searchsorted(self.prompt, [start, stop])
        part = self.take(slice(low, high))
        prompt, first, second, annotator = (
            column.astype(np.int64) for column in (part.prompt, part.first, part.second, part.annotator)
        )
        return replace(part, prompt=prompt - start, first=first, second=second, annotator=annotator)

    def renumbered(self, prompt: Ints) -> "Votes":
        """The same votes with other numbers of prompts, [n]."""
        return replace(self, prompt=prompt)

    def merged(self, twins: Ints, usable: Bools) -> "Votes":
        """Votes between items, where slot k of prompt p stands for item twins[p, k].

        Votes on slots that are not `usable` [P, K] are left out, and so are votes between two slots of one item.
        """
        first, second = twins[self.prompt, self.first], twins[self.prompt, self.second]
        counted: Bools = usable[self.prompt, self.first] & usable[self.prompt, self.second] & (first != second)
        swapped = first > second
        merged = replace(
            self,
            first=np.where(swapped, second, first),
            second=np.where(swapped, first, second),
            share=np.where(swapped, 1 - self.share, self.share),
        )
        return merged.take(counted)

    def wins(self, shape: tuple[int, int], share: Floats | None = None, weight: Floats | None = None) -> Floats:
        """Weighted wins [P, K, K] for shape (P, K); `share` and `weight` [n] replace those of the votes."""
        part = self.share if share is None else share
        weights = self.weight if weight is None else weight
        size, full = shape[0] * shape[1] ** 2, (*shape, shape[1])
        upper = np.ravel_multi_index((self.prompt, self.first, self.second), full)
        lower = np.ravel_multi_index((self.prompt, self.second, self.first), full)
        wins = np.bincount(upper, weights * part, size) + np.bincount(lower, weights * (1 - part), size)
        return wins.astype(np.float64, copy=False).reshape(full)

    def pair_keys(self, slots: int) -> Ints:
        """A number for each vote, equal for votes on the same pair."""
        return (self.prompt.astype(np.int64) * slots + self.first) * slots + self.second


def concatenate(parts: Sequence[Votes]) -> Votes:
    """All votes of `parts`, in order."""
    names = Votes.__dataclass_fields__
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return Votes(none, none, none, none, np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool))
    return Votes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def read_votes(
    votes: pa.Table, prompt_ids: pa.Array, annotators: tuple[str, ...], weights: Floats, *, soft: bool = False
) -> Votes:
    """Convert `votes` (storage.schemas.VOTES) to arrays, in the order of `prompt_ids` and stable within a prompt.

    Abstentions and errors are left out. `weights` [A]: of the `annotators`. With `soft`, a vote with a probability
    counts as that share of a win. Raises ValueError for prompts and annotators that are not listed, and for
    probabilities outside [0, 1].
    """
    outcome = places(votes["outcome"], _OUTCOMES, np.int8)
    prompt = places(votes["prompt_id"], prompt_ids, np.int32)
    annotator = places(votes["annotator"], pa.array(annotators, pa.string()), np.int16)
    counted = outcome >= 0
    if ((prompt < 0) & counted).any() or ((annotator < 0) & counted).any():
        raise ValueError("votes have a prompt or an annotator that is not listed")
    order = np.flatnonzero(counted)
    if (np.diff(prompt[order]) < 0).any():
        order = order[np.argsort(prompt[order], kind="stable")]
    share = _SHARES[outcome[order]]
    if soft:
        probability = votes["probability"].to_numpy()[order]
        if ((probability < 0) | (probability > 1)).any():
            raise ValueError("a vote's probability is not between 0 and 1")
        share = np.where(np.isnan(probability), share, probability)
    a, b = (votes[name].to_numpy().astype(np.int16)[order] for name in ("index_a", "index_b"))
    return Votes(
        prompt[order],
        np.minimum(a, b),
        np.maximum(a, b),
        annotator[order],
        np.where(a < b, share, 1 - share),
        weights[annotator[order]],
        pc.equal(votes["kind"], "ranking").to_numpy()[order],
    )


def places(names: pa.ChunkedArray, known: pa.Array, kind: type[np.signedinteger[Any]]) -> Ints:
    """The position of each name [n] in `known`, or -1."""
    parts = (pc.index_in(part, value_set=known).fill_null(-1).to_numpy().astype(kind) for part in names.chunks)
    return np.concatenate([np.zeros(0, kind), *parts])
