"""Statistics of the annotators in a label stage: outcomes, agreement, bias, consistency, cost."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, Ints
from storage.schemas import AGREEMENT, ANNOTATORS
from tasks.labeling.aggregation.votes import places
from tasks.labeling.summary import Agreement, AnnotatorStats
from tasks.panel.annotators.protocol import UNANSWERED
from tasks.panel.responses import Responses

_OUTCOMES = ("a", "b", "tie", "abstain", "error")
_SILENT = -2  # neither a (1), b (-1) nor tie (0)
_SIDES = np.array([1, -1, 0, _SILENT, _SILENT], dtype=np.int8)  # for _OUTCOMES
_SPENT = ["seconds", "tokens", "cost"]
_PAID = ["annotator", "faults", *_SPENT]
_VOTES = ["prompt_id", "index_a", "index_b", "kind", "outcome", "ab", "ba", *_PAID]


@dataclass(frozen=True)
class StatsTables:
    """annotators: storage.schemas.ANNOTATORS, in the panel's order. agreement: storage.schemas.AGREEMENT."""

    annotators: pa.Table
    agreement: pa.Table


def annotator_stats(
    responses: Responses, votes: pa.Table, scores: pa.Table, preferences: pa.Table, gold: Sequence[str] = ()
) -> StatsTables:
    """Statistics of the `votes` of one stage (storage.schemas.VOTES), and their agreement with its `preferences`.

    gold: annotators whose a and b votes are the truth for accuracy; a pair on which they contradict has no truth.
    """
    panel = _VoteMatrix(responses, votes, scores)
    names = panel.names
    chosen = panel.chosen_sides(preferences)
    truth = panel.truth(gold)
    stats = [panel.stats(number, chosen, truth) for number in range(len(names))]
    pairs = [panel.agreement(one, other) for one, other in combinations(range(len(names)), 2)]
    return StatsTables(
        pa.Table.from_pylist([row.model_dump() for row in stats], schema=ANNOTATORS),
        pa.Table.from_pylist([row.model_dump() for row in pairs if row is not None], schema=AGREEMENT),
    )


class _VoteMatrix:
    """Votes as a matrix: `sides[c, n]` is the vote of annotator c on comparison n: 1, -1, 0 or _SILENT."""

    def __init__(self, responses: Responses, votes: pa.Table, scores: pa.Table) -> None:
        self._responses = responses
        self._votes, self._scores = votes.select(_VOTES), scores.select(_PAID)
        self.names: list[str] = pc.unique(votes["annotator"]).to_pylist()
        self._slots = responses.rows.shape[1]
        at = [self._place(*_slots(self._votes_of(name))) for name in self.names]
        self._comparisons: Ints = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *at]))
        self.sides = np.full((len(self.names), len(self._comparisons)), _SILENT, dtype=np.int8)
        for number, name in enumerate(self.names):
            own_votes = self._votes_of(name)
            _, a, b = _slots(own_votes)
            side = _SIDES[places(own_votes["outcome"], pa.array(_OUTCOMES), np.int8)]
            side = np.where((a > b) & (np.abs(side) == 1), -side, side)
            self.sides[number, np.searchsorted(self._comparisons, at[number])] = side

    def _votes_of(self, name: str) -> pa.Table:
        """The votes of one annotator."""
        return self._votes.filter(pc.equal(self._votes["annotator"], name))

    def _place(self, prompts: pa.ChunkedArray, a: Ints, b: Ints) -> Ints:
        """One number for each comparison, the same for both orders."""
        prompt = places(prompts, self._responses.prompt_ids, np.int64)
        number: Ints = (prompt * self._slots + np.minimum(a, b)) * self._slots + np.maximum(a, b)
        return number

    def chosen_sides(self, preferences: pa.Table) -> Ints:
        """[n]: 1 if the lower index of the comparison is chosen, -1 if the higher index is, 0 if neither."""
        decided = preferences.filter(pc.greater(preferences["target"], 0))
        chosen = decided["chosen_index"].to_numpy().astype(np.int64)
        rejected = decided["rejected_index"].to_numpy().astype(np.int64)
        sides = np.zeros(len(self._comparisons), dtype=np.int8)
        place = self._place(decided["prompt_id"], chosen, rejected)
        at = np.searchsorted(self._comparisons, place)
        sides[at] = np.where(chosen < rejected, 1, -1)
        return sides

    def truth(self, gold: Sequence[str]) -> Ints | None:
        """[n]: the side that all deciding `gold` annotators agree on, otherwise 0; None without gold."""
        judges = [self.sides[self.names.index(name)] for name in gold if name in self.names]
        if not judges:
            return None
        sides = np.array(judges)
        first, second = (sides == 1).any(axis=0), (sides == -1).any(axis=0)
        side: Ints = first.astype(np.int8) - second.astype(np.int8)
        return side

    @cached_property
    def _net(self) -> Ints:
        """[n]: a votes minus b votes of all annotators."""
        net: Ints = np.where(self.sides == _SILENT, 0, self.sides).sum(axis=0, dtype=np.int64)
        return net

    @cached_property
    def _longer(self) -> Ints:
        """[n]: 1 if the lower index is the longer response, -1 if the higher index is, 0 if both are equally long."""
        prompt, pair = np.divmod(self._comparisons, self._slots**2)
        first, second = np.divmod(pair, self._slots)
        length = self._responses.characters
        rows = self._responses.rows
        longer: Ints = np.sign(length[rows[prompt, first]] - length[rows[prompt, second]])
        return longer

    def stats(self, number: int, chosen: Ints, truth: Ints | None) -> AnnotatorStats:
        """The statistics of one annotator."""
        sides = self.sides[number]
        name = self.names[number]
        own_votes = self._votes_of(name)
        scored = self._scores.filter(pc.equal(self._scores["annotator"], name))
        answers = scored if len(scored) else own_votes
        decided = np.abs(sides) == 1
        others = np.sign(self._net - np.where(sides == _SILENT, 0, sides))
        on_gold = decided & (np.abs(truth) == 1) if truth is not None else np.zeros_like(decided)
        triples, intransitive = self._triples(sides)
        outcomes = _value_counts(own_votes["outcome"])
        faults = Counter[str]()
        for text, times in _value_counts(answers["faults"]).items():
            for fault in text.split(", ") if text else ():
                faults[fault] += times
        first_share, consistency = _orders(own_votes)
        seconds, tokens, cost = (pc.sum(answers[column], min_count=1).as_py() for column in _SPENT)
        return AnnotatorStats(
            annotator=name,
            kind=own_votes["kind"][0].as_py(),
            a=outcomes.get("a", 0),
            b=outcomes.get("b", 0),
            tie=outcomes.get("tie", 0),
            abstain=outcomes.get("abstain", 0),
            error=outcomes.get("error", 0),
            unanswered=faults.pop(UNANSWERED, 0),
            faults=json.dumps(dict(sorted(faults.items()))),
            agrees_with_panel=_share(sides[decided & (chosen != 0)] == chosen[decided & (chosen != 0)]),
            agrees_with_others=_share(sides[decided & (others != 0)] == others[decided & (others != 0)]),
            gold_votes=int(on_gold.sum()),
            gold_accuracy=None if truth is None else _share(sides[on_gold] == truth[on_gold]),
            first_share=first_share,
            order_consistency=consistency,
            longer_share=_share(sides[decided & (self._longer != 0)] == self._longer[decided & (self._longer != 0)]),
            triples=triples,
            intransitive=intransitive,
            seconds=seconds,
            tokens=tokens,
            cost=cost,
        )

    def _triples(self, sides: Ints) -> tuple[int, int]:
        """How many triples of responses have three a or b votes, and how many of them are intransitive."""
        shape = (len(self._responses.rows), self._slots, self._slots)
        sign = np.zeros(np.prod(shape), dtype=np.int8)
        sign[self._comparisons] = np.where(sides == _SILENT, 0, sides)
        sign = sign.reshape(shape)
        i, j, k = np.array(list(combinations(range(self._slots), 3)), dtype=np.int64).reshape(-1, 3).T
        cycle = sign[:, i, j], sign[:, j, k], -sign[:, i, k]
        full = (cycle[0] != 0) & (cycle[1] != 0) & (cycle[2] != 0)
        return int(full.sum()), int((full & (cycle[0] == cycle[1]) & (cycle[1] == cycle[2])).sum())

    def agreement(self, one: int, other: int) -> Agreement | None:
        """The agreement of two annotators; None when no comparison has both votes."""
        first, second = self.sides[one], self.sides[other]
        both = (first != _SILENT) & (second != _SILENT)
        if not both.any():
            return None
        x, y = first[both], second[both]
        same = float((x == y).mean())
        chance = float(sum((x == side).mean() * (y == side).mean() for side in (-1, 0, 1)))
        kappa = (same - chance) / (1 - chance) if chance < 1 else None
        return Agreement(
            annotator=self.names[one], other=self.names[other], both=int(both.sum()), same=same, kappa=kappa
        )


def _orders(votes: pa.Table) -> tuple[float | None, float | None]:
    """Share of verdicts for the response shown first, and of comparisons with one verdict in both orders."""
    ab, ba = (places(votes[order], pa.array(["a", "b", "tie"]), np.int8) for order in ("ab", "ba"))
    first = np.concatenate([ab == 0, ba == 1])
    second = np.concatenate([ab == 1, ba == 0])
    readable: Bools = (ab >= 0) & (ba >= 0)
    return _share(first[first | second]), _share((ab == ba)[readable])


def _slots(votes: pa.Table) -> tuple[pa.ChunkedArray, Ints, Ints]:
    """Prompt, and the slots of a and b, of each vote."""
    a, b = (votes[name].to_numpy().astype(np.int64) for name in ("index_a", "index_b"))
    return votes["prompt_id"], a, b


def _value_counts(column: pa.ChunkedArray) -> dict[str | None, int]:
    """How often each value occurs."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _share(flags: Bools) -> float | None:
    return float(flags.mean()) if len(flags) else None
