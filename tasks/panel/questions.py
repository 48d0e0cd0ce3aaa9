"""Questions of each kind, and answers as score rows and vote rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, Floats, Ints
from storage.schemas import SCORES, VOTES
from tasks.panel.annotators.protocol import Annotator, Comparison, Kind, Question, Ranking, Response, Slate, Vote
from tasks.panel.answers import SPENT, as_answers, as_table
from tasks.panel.lazy_sequence import Lazy

_REPEATED = 4096
_TEXT = pa.string()


@dataclass(frozen=True)
class Ballot:
    """What a panel said: `scores` of storage.schemas.SCORES, `votes` of VOTES; by annotator, then as given."""

    scores: pa.Table
    votes: pa.Table


@dataclass(frozen=True)
class Questions:
    """What a panel is asked: `pairs` [n, 2], rows (a, b) of positions in `responses`; a and b answer one prompt."""

    responses: Sequence[Response]
    pairs: Ints

    def of(self, kind: Kind) -> Sequence[Question]:
        """All questions of a kind."""
        if kind == "scores":
            return self.responses
        return self.comparisons if kind == "pairs" else Lazy(len(self._members), self._slates)

    @property
    def comparisons(self) -> Sequence[Comparison]:
        """The pairs as questions; they are made when they are asked for."""
        return Lazy(len(self.pairs), self._comparisons)

    def _comparisons(self, start: int, stop: int) -> list[Comparison]:
        first, second = (self._at(side) for side in self.pairs[start:stop].T)
        return [Comparison(a, b) for a, b in zip(first, second, strict=True)]

    def _slates(self, start: int, stop: int) -> list[Slate]:
        members = self._members[start:stop]
        responses = iter(self._at(np.array([position for slate in members for position in slate], dtype=int)))
        return [Slate(tuple(islice(responses, len(slate)))) for slate in members]

    def _at(self, positions: Ints) -> list[Response]:
        """The responses at positions that lie close together."""
        if not len(positions):
            return []
        low = int(positions.min())
        near = self.responses[low : int(positions.max()) + 1]
        return [near[position] for position in (positions - low).tolist()]

    @cached_property
    def _members(self) -> list[list[int]]:
        """Positions of each slate: responses that are compared with each other, directly or through others."""
        slate = {position: {position} for position in np.unique(self.pairs).tolist()}
        for a, b in self.pairs.tolist():
            if slate[a] is not slate[b]:
                slate[a] |= slate[b]
                for member in slate[b]:
                    slate[member] = slate[a]
        return [sorted(members) for members in {id(members): members for members in slate.values()}.values()]

    def votes_of_rankings(self, given: Sequence[Ranking]) -> list[Vote]:
        """The vote on each pair that follows from the ranking of its slate; what a ranking cost stands at its first."""
        slate: dict[int, int] = {}
        tier: dict[int, int] = {}
        for number, (members, ranking) in enumerate(zip(self._members, given, strict=True)):
            slate |= dict.fromkeys(members, number)
            tier |= {members[place]: level for level, tied in enumerate(ranking.tiers) for place in tied}
        votes, charged = [], set[int]()
        for a, b in self.pairs.tolist():
            ranking = given[slate[a]]
            spent = {name: None if slate[a] in charged else getattr(ranking, name) for name in SPENT}
            charged.add(slate[a])
            if ranking.outcome == "error":
                outcome = "error"
            elif ranking.outcome == "abstain" or a not in tier or b not in tier:
                outcome = "abstain"
            else:
                outcome = "tie" if tier[a] == tier[b] else "a" if tier[a] < tier[b] else "b"
            votes.append(Vote(outcome, order="both", raw=ranking.raw, **spent))  # type: ignore[arg-type]
        return votes

    @cached_property
    def _named(self) -> list[pa.Array]:
        """Prompt id, source and index of each response."""
        ids: list[str] = []
        sources: list[str] = []
        indices: list[int] = []
        for response in self.responses:
            ids.append(response.prompt_id)
            sources.append(response.source)
            indices.append(response.index)
        return [pa.array(ids, pa.string()), pa.array(sources, pa.string()), pa.array(indices, pa.int32())]

    @cached_property
    def _names(self) -> dict[str, pa.ChunkedArray]:
        """The columns of vote rows that say what was compared: the same arrays for every annotator."""
        ids, sources, indices = self._named
        a, b = pa.array(self.pairs[:, 0], pa.int64()), pa.array(self.pairs[:, 1], pa.int64())
        return {
            "prompt_id": ids.take(a),
            "source_a": sources.take(a),
            "index_a": indices.take(a),
            "source_b": sources.take(b),
            "index_b": indices.take(b),
        }

    @cached_property
    def _nothing(self) -> dict[str, pa.ChunkedArray]:
        """The columns of vote rows that have no value where votes follow from scores."""
        names = ("probability", "raw", "ab", "ba", *SPENT)
        return {name: _same(None, len(self.pairs), VOTES.field(name).type) for name in names}

    def ballot(self, annotator: Annotator, said: pa.Table) -> Ballot:
        """Score rows and vote rows of one annotator, whose answers are the rows of `said` (answers.ANSWERS)."""
        n = len(self.pairs)
        columns = self._names | {"annotator": _same(annotator.name, n), "kind": _same(annotator.kind, n)}
        if annotator.kind == "scores":
            columns |= self._nothing
            columns |= {"order": _same("none", n), "outcome": _votes_of_scores(annotator, said, self.pairs)}
            return Ballot(self._score_rows(annotator.name, said), pa.table(columns, schema=VOTES))
        if annotator.kind == "ranking":
            rankings = as_answers("ranking", said)
            said = as_table("pairs", self.votes_of_rankings([each for each in rankings if isinstance(each, Ranking)]))
        return Ballot(SCORES.empty_table(), pa.table(columns | _columns(said), schema=VOTES))

    def _score_rows(self, annotator: str, said: pa.Table) -> pa.Table:
        columns = dict(zip(("prompt_id", "source", "response_index"), self._named, strict=True)) | _columns(said)
        columns |= {"annotator": _same(annotator, len(said)), "score": columns.pop("value")}
        return pa.table(columns, schema=SCORES)


def _columns(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Columns by name, each in one piece; those without any value take no memory."""
    return {
        name: _same(None, len(rows), column.type) if column.null_count == len(rows) else column.combine_chunks()
        for name, column in zip(rows.column_names, rows.columns, strict=True)
    }


def _same(value: str | None, count: int, kind: pa.DataType = _TEXT) -> pa.ChunkedArray:
    """`value` so many times, in the memory of _REPEATED times."""
    whole, rest = divmod(count, _REPEATED)
    block = pa.repeat(pa.scalar(value, kind), min(count, _REPEATED))
    return pa.chunked_array([block] * whole + [block[:rest]], kind)


def _votes_of_scores(annotator: Annotator, said: pa.Table, pairs: Ints) -> pa.Array:
    """The outcomes that follow from scores: the higher one wins; a gap of at most tie_margin is a tie; a failed
    score makes an error, a missing one an abstention."""
    value: Floats = said["value"].to_numpy()  # null is NaN
    failed: Bools = pc.equal(said["outcome"], "error").to_numpy()
    a, b = pairs[:, 0], pairs[:, 1]
    gap = value[a] - value[b]
    outcome = np.select(
        [failed[a] | failed[b], np.isnan(gap), np.abs(gap) <= annotator.tie_margin, gap > 0], [0, 1, 2, 3], 4
    )
    return pa.array(["error", "abstain", "tie", "a", "b"]).take(pa.array(outcome))


def votes_by_outcome(votes: pa.Table) -> dict[str, dict[str, int]]:
    """{annotator: {outcome: count}}, in the panel's order."""
    counts: dict[str, Counter[str]] = {}
    for row in votes.group_by(["annotator", "outcome"], use_threads=False).aggregate([([], "count_all")]).to_pylist():
        counts.setdefault(row["annotator"], Counter())[row["outcome"]] = row["count_all"]
    return {annotator: dict(sorted(count.items())) for annotator, count in counts.items()}
