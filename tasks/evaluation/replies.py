"""Length, diversity and finish rate of replies, each with its 95 % interval."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice

import numpy as np

from tasks.evaluation.intervals import Bootstrap, Interval, bootstrap_mean

_NORMAL = 1.96


def reply_metrics(
    texts: Sequence[str], lengths: Sequence[int], ended: Sequence[bool], prompts: Sequence[str], draw: Bootstrap
) -> dict[str, Interval]:
    """By name: tokens, words, characters, finished (means over replies [n]), unique, distinct-1, distinct-2.

    unique: the share of distinct texts. distinct-n: the share of distinct n-grams of words (Li et al., arXiv
    1510.03055), over all replies together. Both depend on the number of replies, and distinct-n on their length.
    """
    words = [text.split() for text in texts]
    measured: dict[str, Sequence[float]] = {
        "tokens": lengths,
        "words": [len(reply) for reply in words],
        "characters": [len(text) for text in texts],
        "finished": ended,
    }
    metrics = {name: bootstrap_mean(values, prompts, draw) for name, values in measured.items()}
    metrics["unique"] = distinct([[text] for text in texts], prompts)
    for n in (1, 2):
        metrics[f"distinct-{n}"] = distinct([list(_ngrams(reply, n)) for reply in words], prompts)
    return metrics


def distinct(items: Sequence[Sequence[Hashable]], prompts: Sequence[str]) -> Interval:
    """The share of distinct items among all items of the replies [n]; 1 when there are no items.

    The interval is 1.96 standard errors of the jackknife over prompts (Efron and Tibshirani 1993, section 11.5). A
    bootstrap would not do: it draws prompts twice, and repeated items are not distinct.
    """
    of_prompt: dict[str, Counter[Hashable]] = {}
    for reply_items, prompt in zip(items, prompts, strict=True):
        of_prompt.setdefault(prompt, Counter()).update(reply_items)
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


def _ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(islice(words, start, None) for start in range(n)), strict=False)
