"""The questions of a panel by answer type, and their answers as rows of scores and votes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, Floats, Ints
from storage.schemas import SCORES, VOTES
from tasks.panel.annotators.protocol import Annotator, AnswerType, Comparison, Question, Ranking, Response, Slate, Vote
from tasks.panel.answers import SPENT, as_answers, as_table
from tasks.panel.lazy_sequence import LazySequence

_REPEATED = 4096  # items in a block of one repeated value
_TEXT = pa.string()


@dataclass(frozen=True)
class PanelVotes:
    """A panel's `scores` (storage.schemas.SCORES) and `votes` (VOTES): by annotator, then in the order of questions.

    outages: annotators that were given up -> why. Their questions without an answer are errors.
    """

    scores: pa.Table
    votes: pa.Table
    outages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Questions:
    """The questions for a panel. `pairs` [n, 2]: rows (a, b) of positions in `responses`; both answer one prompt."""

    responses: Sequence[Response]
    pairs: Ints

    def of(self, answer_type: AnswerType) -> Sequence[Question]:
        """All questions that an annotator of this answer type gets."""
        if answer_type == "scores":
            return self.responses
        return self.comparisons if answer_type == "pairs" else LazySequence(len(self._members), self._slates)

    @property
    def comparisons(self) -> Sequence[Comparison]:
        """The pairs as questions, which are made when they are read."""
        return LazySequence(len(self.pairs), self._comparisons)

    def _comparisons(self, start: int, stop: int) -> list[Comparison]:
        first, second = (self._at(side) for side in self.pairs[start:stop].T)
        return [Comparison(a, b) for a, b in zip(first, second, strict=True)]

    def _slates(self, start: int, stop: int) -> list[Slate]:
        members = self._members[start:stop]
        responses = iter(self._at(np.array([position for slate in members for position in slate], dtype=int)))
        return [Slate(tuple(islice(responses, len(slate)))) for slate in members]

    def _at(self, positions: Ints) -> list[Response]:
        """The responses at `positions`, which are close together."""
        if not len(positions):
            return []
        low = int(positions.min())
        near = self.responses[low : int(positions.max()) + 1]
        return [near[position] for position in (positions - low).tolist()]

    @cached_property
    def _members(self) -> list[list[int]]:
        """The positions in each slate: responses that are compared with each other, directly or through others."""
        slate = {position: {position} for position in np.unique(self.pairs).tolist()}
        for a, b in self.pairs.tolist():
            if slate[a] is not slate[b]:
                slate[a] |= slate[b]
                for member in slate[b]:
                    slate[member] = slate[a]
        return [sorted(members) for members in {id(members): members for members in slate.values()}.values()]

    def votes_of_rankings(self, rankings: Sequence[Ranking]) -> list[Vote]:
        """The vote on each pair, from the ranking of its slate. A ranking's cost is on the first of its votes."""
        slate: dict[int, int] = {}
        tier: dict[int, int] = {}
        for number, (members, ranking) in enumerate(zip(self._members, rankings, strict=True)):
            slate |= dict.fromkeys(members, number)
            tier |= {members[position]: level for level, tied in enumerate(ranking.tiers) for position in tied}
        votes, charged = [], set[int]()
        for a, b in self.pairs.tolist():
            ranking = rankings[slate[a]]
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
    def _response_columns(self) -> list[pa.Array]:
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
    def _pair_columns(self) -> dict[str, pa.ChunkedArray]:
        """The columns of vote rows that name the two responses: the same arrays for every annotator."""
        ids, sources, indices = self._response_columns
        a, b = pa.array(self.pairs[:, 0], pa.int64()), pa.array(self.pairs[:, 1], pa.int64())
        return {
            "prompt_id": ids.take(a),
            "source_a": sources.take(a),
            "index_a": indices.take(a),
            "source_b": sources.take(b),
            "index_b": indices.take(b),
        }

    @cached_property
    def _null_columns(self) -> dict[str, pa.ChunkedArray]:
        """The columns of vote rows that are null if votes follow from scores."""
        names = ("probability", "raw", "ab", "ba", *SPENT)
        return {name: _same(None, len(self.pairs), VOTES.field(name).type) for name in names}

    def panel_votes(self, annotator: Annotator, answers: pa.Table) -> PanelVotes:
        """Score rows and vote rows of one annotator, whose answers are the rows of `answers` (answers.ANSWERS)."""
        n = len(self.pairs)
        columns = self._pair_columns | {"annotator": _same(annotator.name, n), "kind": _same(annotator.answer_type, n)}
        if annotator.answer_type == "scores":
            columns |= self._null_columns
            columns |= {"order": _same("none", n), "outcome": _votes_of_scores(annotator, answers, self.pairs)}
            return PanelVotes(self._score_rows(annotator.name, answers), pa.table(columns, schema=VOTES))
        if annotator.answer_type == "ranking":
            rankings = [answer for answer in as_answers("ranking", answers) if isinstance(answer, Ranking)]
            answers = as_table("pairs", self.votes_of_rankings(rankings))
        return PanelVotes(SCORES.empty_table(), pa.table(columns | _columns(answers), schema=VOTES))

    def _score_rows(self, annotator: str, answers: pa.Table) -> pa.Table:
        columns = dict(zip(("prompt_id", "source", "response_index"), self._response_columns, strict=True)) | _columns(
            answers
        )
        columns |= {"annotator": _same(annotator, len(answers)), "score": columns.pop("value")}
        return pa.table(columns, schema=SCORES)


def _columns(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Columns by name, each as one chunk; a column of nulls shares one block."""
    return {
        name: _same(None, len(rows), column.type) if column.null_count == len(rows) else column.combine_chunks()
        for name, column in zip(rows.column_names, rows.columns, strict=True)
    }


def _same(value: str | None, count: int, data_type: pa.DataType = _TEXT) -> pa.ChunkedArray:
    """`value` repeated `count` times, in the memory of _REPEATED items."""
    whole, rest = divmod(count, _REPEATED)
    block = pa.repeat(pa.scalar(value, data_type), min(count, _REPEATED))
    return pa.chunked_array([block] * whole + [block[:rest]], data_type)


def _votes_of_scores(annotator: Annotator, answers: pa.Table, pairs: Ints) -> pa.Array:
    """The outcome of each pair from two scores: the higher one wins; a difference of at most tie_margin is a tie; a
    failed score makes an error, a missing one an abstention."""
    value: Floats = answers["value"].to_numpy()  # null is NaN
    failed: Bools = pc.equal(answers["outcome"], "error").to_numpy()
    a, b = pairs[:, 0], pairs[:, 1]
    gap = value[a] - value[b]
    outcome = np.select(
        [failed[a] | failed[b], np.isnan(gap), np.abs(gap) <= annotator.tie_margin, gap > 0], [0, 1, 2, 3], 4
    )
    return pa.array(["error", "abstain", "tie", "a", "b"]).take(pa.array(outcome))


def votes_by_outcome(votes: pa.Table) -> dict[str, dict[str, int]]:
    """{annotator: {outcome: count}}, in the order of the panel."""
    counts: dict[str, Counter[str]] = {}
    for row in votes.group_by(["annotator", "outcome"], use_threads=False).aggregate([([], "count_all")]).to_pylist():
        counts.setdefault(row["annotator"], Counter())[row["outcome"]] = row["count_all"]
    return {annotator: dict(sorted(count.items())) for annotator, count in counts.items()}
