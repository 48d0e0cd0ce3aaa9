"""Questions of each kind, and answers as score rows and vote rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from storage.schemas import SCORES, VOTES
from tasks.labeling.aggregation import Bools, Floats, Ints
from tasks.labeling.annotators.protocol import (
    Annotator,
    Answer,
    Comparison,
    Kind,
    Question,
    Ranking,
    Response,
    Score,
    Slate,
    Vote,
)

_SPENT = ("seconds", "tokens", "cost", "faults")


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
        if kind == "scores":
            return self.responses
        return self.comparisons if kind == "pairs" else [Slate(tuple(each)) for each in self._slates]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        return [Comparison(self.responses[a], self.responses[b]) for a, b in self.pairs.tolist()]

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

    @cached_property
    def _slates(self) -> list[list[Response]]:
        return [[self.responses[position] for position in members] for members in self._members]

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
            spent = {name: None if slate[a] in charged else getattr(ranking, name) for name in _SPENT}
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
    def _names(self) -> dict[str, pa.Array]:
        ids = pa.array([response.prompt_id for response in self.responses], pa.string())
        sources = pa.array([response.source for response in self.responses], pa.string())
        indices = pa.array([response.index for response in self.responses], pa.int32())
        a, b = pa.array(self.pairs[:, 0], pa.int64()), pa.array(self.pairs[:, 1], pa.int64())
        return {
            "prompt_id": ids.take(a),
            "source_a": sources.take(a),
            "index_a": indices.take(a),
            "source_b": sources.take(b),
            "index_b": indices.take(b),
        }

    def ballot(self, annotator: Annotator, given: Sequence[Answer]) -> Ballot:
        """Score rows and vote rows of one annotator."""
        if annotator.kind == "scores":
            scores = [answer for answer in given if isinstance(answer, Score)]
            columns = _votes_of_scores(annotator, scores, self.pairs)
            return Ballot(self._score_rows(annotator.name, scores), pa.table(self._names | columns, schema=VOTES))
        if annotator.kind == "ranking":
            votes = self.votes_of_rankings([answer for answer in given if isinstance(answer, Ranking)])
        else:
            votes = [answer for answer in given if isinstance(answer, Vote)]
        columns = _vote_columns(annotator, votes)
        return Ballot(SCORES.empty_table(), pa.table(self._names | columns, schema=VOTES))

    def _score_rows(self, annotator: str, given: Sequence[Score]) -> pa.Table:
        columns = {
            "prompt_id": [response.prompt_id for response in self.responses],
            "source": [response.source for response in self.responses],
            "response_index": [response.index for response in self.responses],
            "annotator": [annotator] * len(self.responses),
            "score": [score.value for score in given],
        }
        columns |= {name: [getattr(score, name) for score in given] for name in ("outcome", "raw", *_SPENT)}
        return pa.table(columns, schema=SCORES)


def _votes_of_scores(annotator: Annotator, given: Sequence[Score], pairs: Ints) -> dict[str, pa.Array]:
    """The vote columns that follow from scores: the higher one wins; a gap of at most tie_margin is a tie; a failed
    score makes an error, a missing one an abstention."""
    value: Floats = np.array([np.nan if score.value is None else score.value for score in given])
    failed: Bools = np.array([score.outcome == "error" for score in given], dtype=bool)
    a, b = pairs[:, 0], pairs[:, 1]
    gap = value[a] - value[b]
    outcome = np.select(
        [failed[a] | failed[b], np.isnan(gap), np.abs(gap) <= annotator.tie_margin, gap > 0],
        ["error", "abstain", "tie", "a"],
        "b",
    )
    n = len(pairs)
    nothing = {name: pa.nulls(n, VOTES.field(name).type) for name in ("probability", "raw", "ab", "ba", *_SPENT)}
    return nothing | {
        "annotator": pa.repeat(annotator.name, n),
        "kind": pa.repeat(annotator.kind, n),
        "order": pa.repeat("none", n),
        "outcome": pa.array(outcome.tolist(), pa.string()),
    }


def _vote_columns(annotator: Annotator, cast: Sequence[Vote]) -> dict[str, pa.Array]:
    fields = ("outcome", "probability", "order", "ab", "ba", "raw", *_SPENT)
    columns = {name: pa.array([getattr(each, name) for each in cast], VOTES.field(name).type) for name in fields}
    return columns | {"annotator": pa.repeat(annotator.name, len(cast)), "kind": pa.repeat(annotator.kind, len(cast))}
