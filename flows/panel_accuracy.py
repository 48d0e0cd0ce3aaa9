"""How accurate a panel is as it grows: its annotators' votes together, on pairs whose better response is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from storage.arrays import Floats
from tasks.evaluation.intervals import Bootstrap, Interval, bootstrap_mean

_PANELS = 200  # of one size; where there are more, so many are drawn
_DRAW = Bootstrap(resamples=1000, seed=0)


@dataclass(frozen=True)
class Panels:
    """Panels of one size: their mean accuracy with its 95 % interval over pairs, and that of the worst and the best."""

    size: int
    mean: Interval
    worst: float
    best: float


def shares(votes: Sequence[Mapping[str, Any]]) -> Floats:
    """The part of each vote that goes to the right side, [n]: 1, 1/2 for a tie, 0, or its probability where it has one.

    NaN for an abstention and an error. votes: rows of storage.schemas.VOTES with their `label`.
    """
    found = np.full(len(votes), np.nan)
    for place, vote in enumerate(votes):
        if vote["outcome"] in ("a", "b", "tie"):
            plain = {"a": 1.0, "tie": 0.5, "b": 0.0}[vote["outcome"]]
            for_a = plain if vote["probability"] is None else float(vote["probability"])
            found[place] = for_a if vote["label"] == "a" else 1 - for_a
    return found


def correct(columns: Sequence[Floats]) -> Floats:
    """Whether the annotators together prefer the right side, [n]: 1, 1/2 for an even split, 0; NaN without votes.

    They prefer the side with more than half of the votes, soft ones counted in parts, as the empirical preference is.
    """
    table = np.stack(columns)
    known = ~np.isnan(table)
    counted = known.sum(axis=0)
    total = np.where(known, table, 0.0).sum(axis=0)
    lead = np.round(total - counted / 2, 12)
    return np.where(counted > 0, (np.sign(lead) + 1) / 2, np.nan)


def growing(columns: Mapping[str, Floats]) -> list[Panels]:
    """Panels of 1, 2, ... annotators out of `columns` (shares of each, [n]), over the pairs on which anybody votes."""
    names, made = list(columns), []
    rng = np.random.default_rng(0)
    for size in range(1, len(names) + 1):
        if comb(len(names), size) <= _PANELS:
            chosen = [list(panel) for panel in combinations(names, size)]
        else:
            chosen = [rng.choice(names, size, replace=False).tolist() for _ in range(_PANELS)]
        results = np.stack([correct([columns[name] for name in panel]) for panel in chosen])
        voted = ~np.isnan(results)
        used = voted.any(axis=0)
        by_pair = np.where(voted, results, 0.0).sum(axis=0)[used] / voted.sum(axis=0)[used]
        by_panel = [float(row[has].mean()) for row, has in zip(results, voted, strict=True) if has.any()]
        pairs = [str(place) for place in np.flatnonzero(used)]
        made.append(Panels(size, bootstrap_mean(by_pair, pairs, _DRAW), min(by_panel), max(by_panel)))
    return made
