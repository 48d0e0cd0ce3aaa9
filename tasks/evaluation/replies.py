"""What replies are like: length, diversity, how many end by themselves. Each figure with its 95 % interval."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice

import numpy as np

from tasks.evaluation.intervals import Interval, bootstrap_mean

_NORMAL = 1.96


def reply_figures(
    texts: Sequence[str], lengths: Sequence[int], ended: Sequence[bool], prompts: Sequence[str], *,
    resamples: int, seed: int,
) -> dict[str, Interval]:  # fmt: skip
    """By name: tokens, words, characters, finished (means over replies [n]), unique, distinct-1, distinct-2.

    unique: distinct texts among all. distinct-n: distinct n-grams of words among all (Li et al., arXiv 1510.03055, over
    all replies together); both hang on how many replies there are, and distinct-n on how long they are.
    """
    words = [text.split() for text in texts]
    measured: dict[str, Sequence[float]] = {
        "tokens": lengths,
        "words": [len(each) for each in words],
        "characters": [len(text) for text in texts],
        "finished": ended,
    }
    found = {name: bootstrap_mean(values, prompts, resamples=resamples, seed=seed) for name, values in measured.items()}
    found["unique"] = distinct([[text] for text in texts], prompts)
    for n in (1, 2):
        found[f"distinct-{n}"] = distinct([list(_grams(each, n)) for each in words], prompts)
    return found


def distinct(items: Sequence[Sequence[Hashable]], prompts: Sequence[str]) -> Interval:
    """Distinct items among all items of the replies [n]; 1 where there are none.

    The interval is 1.96 standard errors of the jackknife over prompts (Efron and Tibshirani 1993, section 11.5): a
    bootstrap draws prompts twice, and what is twice there is not distinct.
    """
    of_prompt: dict[str, Counter[Hashable]] = {}
    for mine, prompt in zip(items, prompts, strict=True):
        of_prompt.setdefault(prompt, Counter()).update(mine)
    everywhere = Counter(item for counts in of_prompt.values() for item in counts)
    total = sum(counts.total() for counts in of_prompt.values())
    share = len(everywhere) / total if total else 1.0
    without = []
    for counts in of_prompt.values():
        left = total - counts.total()
        lost = sum(everywhere[item] == 1 for item in counts)
        without.append((len(everywhere) - lost) / left if left else share)
    n = len(without)
    half = _NORMAL * float(np.sqrt((n - 1) / n * np.square(np.asarray(without) - np.mean(without)).sum()))
    return Interval(mean=share, low=max(share - half, 0.0), high=min(share + half, 1.0), n=len(items))


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(islice(words, start, None) for start in range(n)), strict=False)
