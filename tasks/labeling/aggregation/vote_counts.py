"""What votes can tell about annotators: how often each voted where others did, and who is linked to whom."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from storage.arrays import Bools, Ints
from tasks.labeling.aggregation.votes import Votes, concatenate

#: Votes in blocks of prompts, as often as asked for: number of the block's first prompt, and votes counted from there.
Blocks = Callable[[], Iterable[tuple[int, Votes]]]

_FEWEST = 3  # annotators: two that disagree do not say which of them errs


@dataclass(frozen=True)
class Census:
    """Decided votes (ties say nothing about an annotator) and how many of them lie on pairs shared with others."""

    annotators: tuple[str, ...]
    votes: Ints  # [A]
    shared: Ints  # [A]
    circle: Ints  # [A]: annotators linked by shared pairs, directly or through others, have the same number

    def not_identified(self, min_votes: int, known: Bools) -> dict[str, str]:
        """Annotators whose reliability the votes cannot tell, with the reason and the counts.

        `known` [A] are those whose reliability is given, or whose votes are known to be right.
        """
        reasons: dict[str, str] = {}
        enough = self.shared >= min_votes
        for k, name in enumerate(self.annotators):
            if known[k]:
                continue
            fellows = (self.circle == self.circle[k]) & (enough | known)
            if not enough[k]:
                reasons[name] = (
                    f"{self.shared[k]} of its {self.votes[k]} decided votes are on pairs that another annotator "
                    f"decided as well; {min_votes} are needed"
                )
            elif not (fellows & known).any() and fellows.sum() < _FEWEST:
                reasons[name] = (
                    f"{fellows.sum() - 1} other annotators with {min_votes} shared votes are linked to it by common "
                    f"pairs; {_FEWEST - 1} are needed, or one whose reliability is known"
                )
        return reasons


def take_census(blocks: Blocks, annotators: tuple[str, ...], slots: int) -> Census:
    """Count in one pass over `blocks`."""
    size = len(annotators)
    votes: Ints = np.zeros(size, int)
    shared: Ints = np.zeros(size, int)
    root: Ints = np.arange(size)
    for _, block in blocks():
        part = block.take(block.share != 0.5)
        _, key = np.unique(part.pair_keys(slots), return_inverse=True)
        voted = np.unique(key * size + part.annotator)  # an annotator once a pair, however often it voted there
        voters = np.bincount(voted // size, minlength=1)
        votes += np.bincount(part.annotator, minlength=size)
        shared += np.bincount(part.annotator, voters[key] > 1, size).astype(int)
        root = _linked(root, voted // size, voted % size)
    return Census(annotators, votes, shared, root)


def _linked(root: Ints, pair: Ints, annotator: Ints) -> Ints:
    while True:
        lowest = np.full(pair.max(initial=0) + 1, len(root))
        np.minimum.at(lowest, pair, root[annotator])
        merged = root.copy()
        np.minimum.at(merged, root[annotator], lowest[pair])
        merged = merged[merged]
        merged = np.minimum(merged, merged[root])
        if (merged == root).all():
            return root
        root = merged


def sample(blocks: Blocks, census: Census, chosen: Bools, at_least: int) -> Votes:
    """Votes of the `chosen` annotators [A] on enough prompts that each keeps about `at_least` of its votes, or all.

    Prompts are taken evenly, by their number; a prompt is taken with all its votes. The size is bounded by the number
    of annotators, not of prompts. Prompts are numbered anew.
    """
    stride = np.maximum(1, census.votes // at_least)
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


def indices(annotators: tuple[str, ...], given: Mapping[str, float] | Iterable[str]) -> Ints:
    """The numbers of the annotators named in `given`. Raises ValueError for a name that is not there."""
    unknown = sorted(set(given) - set(annotators))
    if unknown:
        raise ValueError(f"no votes of annotators {unknown}; there are {sorted(annotators)}")
    return np.array([annotators.index(name) for name in given], dtype=int)
