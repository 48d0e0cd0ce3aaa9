"""How often annotators voted on the same pairs: whether the votes can identify an annotator's reliability."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from storage.arrays import Bools, Ints
from tasks.labeling.aggregation.votes import Votes, concatenate

#: Votes in blocks of prompts, readable more than once: the number of the block's first prompt, and votes on prompts
#: that are numbered from there.
Blocks = Callable[[], Iterable[tuple[int, Votes]]]

_FEWEST = 3  # annotators: when two disagree, the votes do not show which one is wrong


@dataclass(frozen=True)
class VoteCounts:
    """Decided votes (ties say nothing about an annotator), and those on pairs that other annotators decided too."""

    annotators: tuple[str, ...]
    votes: Ints  # [A]
    shared: Ints  # [A]
    component: Ints  # [A]: equal for annotators that shared pairs connect, directly or through others

    def not_identified(self, min_votes: int, known: Bools) -> dict[str, str]:
        """Annotators whose reliability the votes do not identify, with the reason.

        known [A]: annotators whose reliability is given, or whose votes are known to be right.
        """
        reasons: dict[str, str] = {}
        enough = self.shared >= min_votes
        for k, name in enumerate(self.annotators):
            if known[k]:
                continue
            connected = (self.component == self.component[k]) & (enough | known)
            if not enough[k]:
                reasons[name] = (
                    f"{self.shared[k]} of its {self.votes[k]} decided votes are on pairs that another annotator "
                    f"decided as well; {min_votes} are needed"
                )
            elif not (connected & known).any() and connected.sum() < _FEWEST:
                reasons[name] = (
                    f"{connected.sum() - 1} other annotators with {min_votes} shared votes are linked to it by common "
                    f"pairs; {_FEWEST - 1} are needed, or one whose reliability is known"
                )
        return reasons


def count_votes(blocks: Blocks, annotators: tuple[str, ...], slots: int) -> VoteCounts:
    """Count in one pass over `blocks`."""
    size = len(annotators)
    votes: Ints = np.zeros(size, int)
    shared: Ints = np.zeros(size, int)
    component: Ints = np.arange(size)
    for _, block in blocks():
        decided = block.take(block.share != 0.5)
        _, pair = np.unique(decided.pair_keys(slots), return_inverse=True)
        voted = np.unique(pair * size + decided.annotator)  # one entry a pair and annotator, however many votes it has
        voters = np.bincount(voted // size, minlength=1)
        votes += np.bincount(decided.annotator, minlength=size)
        shared += np.bincount(decided.annotator, voters[pair] > 1, size).astype(int)
        component = _connect(component, voted // size, voted % size)
    return VoteCounts(annotators, votes, shared, component)


def _connect(component: Ints, pair: Ints, annotator: Ints) -> Ints:
    """Connected components [A] after joining annotators that voted on the same pair, by their lowest number."""
    while True:
        lowest = np.full(pair.max(initial=0) + 1, len(component))
        np.minimum.at(lowest, pair, component[annotator])
        merged = component.copy()
        np.minimum.at(merged, component[annotator], lowest[pair])
        merged = merged[merged]
        merged = np.minimum(merged, merged[component])
        if (merged == component).all():
            return component
        component = merged


def sample(blocks: Blocks, counts: VoteCounts, chosen: Bools, at_least: int) -> Votes:
    """Votes of the `chosen` annotators [A] on enough prompts that each keeps about `at_least` votes, or all it has.

    Prompts are taken evenly, by their number, each with all its votes. The size depends on the number of annotators,
    not of prompts. Prompts are renumbered from 0.
    """
    stride = np.maximum(1, counts.votes // at_least)
    parts: list[Votes] = []
    for start, block in blocks():
        part = block.take(chosen[block.annotator])
        wanted = (part.prompt + start) % stride[part.annotator] == 0
        kept = part.take(np.isin(part.prompt, part.prompt[wanted]))
        _, prompt = np.unique(kept.prompt + start, return_inverse=True)
        before = parts[-1].prompt[-1] + 1 if parts else 0
        if len(kept):
            parts.append(replace(kept, prompt=prompt + before))
    return concatenate(parts)


def indices(annotators: tuple[str, ...], names: Mapping[str, float] | Iterable[str]) -> Ints:
    """The numbers of the annotators in `names`. Raises ValueError for a name that is not there."""
    unknown = sorted(set(names) - set(annotators))
    if unknown:
        raise ValueError(f"there are no votes of annotators {unknown}; choose from {sorted(annotators)}")
    return np.array([annotators.index(name) for name in names], dtype=int)
