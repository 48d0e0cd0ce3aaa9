"""The panel: every annotator on every comparison; what they said as score rows and vote rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.errors import UserError
from storage.schemas import SCORES, VOTES
from storage.stage import Progress, silent
from tasks.labeling.aggregation import Bools, Floats, Ints
from tasks.labeling.annotators.protocol import Annotator, Comparison, Response, Score, ScoreAnnotator, Vote
from tasks.labeling.parts import Parts


@dataclass(frozen=True)
class Ballot:
    """What a panel said: `scores` of storage.schemas.SCORES, `votes` of VOTES; by annotator, then as given."""

    scores: pa.Table
    votes: pa.Table


def vote(
    annotators: Sequence[Annotator],
    responses: Sequence[Response],
    comparisons: Ints,
    parts: Parts,
    progress: Progress = silent,
) -> Ballot:
    """Have each annotator judge `comparisons` [n, 2], rows (a, b) of positions in `responses`.

    Score annotators score every response once and vote by their scores. What was said is published in `parts` as it
    comes, and what is there is not asked again. Raises UserError for an empty panel.
    """
    if not annotators:
        raise UserError(
            "the panel has no annotator", where="annotators", remedy="name at least one, e.g. panel=verifier"
        )
    pairs = np.asarray(comparisons).reshape(-1, 2)
    asked = [Comparison(responses[a], responses[b]) for a, b in pairs.tolist()]
    names = _comparison_columns(responses, pairs)
    scores, votes = [SCORES.empty_table()], [VOTES.empty_table()]
    total = sum(len(responses) if annotator.kind == "scores" else len(asked) for annotator in annotators)
    before = 0
    for number, annotator in enumerate(annotators):

        def show(count: int, before: int = before) -> None:
            progress(before + count, total, "judgements")

        show(0)
        if annotator.kind == "scores":
            given = parts.gather(number, Score, responses, annotator.vote, show)
            before += len(given)
            scores.append(_score_rows(annotator.name, responses, given))
            votes.append(pa.table(names | _votes_of_scores(annotator, given, pairs), schema=VOTES))
        else:
            cast = parts.gather(number, Vote, asked, annotator.vote, show)
            before += len(cast)
            votes.append(pa.table(names | _vote_columns(annotator.name, cast), schema=VOTES))
    progress(total, total, "judgements")
    return Ballot(pa.concat_tables(scores), pa.concat_tables(votes))


def _score_rows(annotator: str, responses: Sequence[Response], given: Sequence[Score]) -> pa.Table:
    """Score rows (storage.schemas.SCORES) of one annotator."""
    return pa.table(
        {
            "prompt_id": [response.prompt_id for response in responses],
            "source": [response.source for response in responses],
            "response_index": [response.index for response in responses],
            "annotator": [annotator] * len(responses),
            "outcome": [score.outcome for score in given],
            "score": [score.value for score in given],
            "raw": [score.raw for score in given],
        },
        schema=SCORES,
    )


def _votes_of_scores(annotator: ScoreAnnotator, given: Sequence[Score], pairs: Ints) -> dict[str, pa.Array]:
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
    columns = _nothing(("probability", "raw", "seconds", "tokens", "cost"), n)
    return columns | {
        "annotator": pa.repeat(annotator.name, n),
        "kind": pa.repeat(annotator.kind, n),
        "order": pa.repeat("none", n),
        "outcome": pa.array(outcome.tolist(), pa.string()),
    }


def _vote_columns(annotator: str, cast: Sequence[Vote]) -> dict[str, pa.Array]:
    fields = ("outcome", "probability", "order", "raw", "seconds", "tokens", "cost")
    columns = {name: pa.array([getattr(each, name) for each in cast], VOTES.field(name).type) for name in fields}
    return columns | {"annotator": pa.repeat(annotator, len(cast)), "kind": pa.repeat("pairs", len(cast))}


def _comparison_columns(responses: Sequence[Response], pairs: Ints) -> dict[str, pa.Array]:
    ids = pa.array([response.prompt_id for response in responses], pa.string())
    sources = pa.array([response.source for response in responses], pa.string())
    indices = pa.array([response.index for response in responses], pa.int32())
    a, b = pa.array(pairs[:, 0], pa.int64()), pa.array(pairs[:, 1], pa.int64())
    return {
        "prompt_id": ids.take(a),
        "source_a": sources.take(a),
        "index_a": indices.take(a),
        "source_b": sources.take(b),
        "index_b": indices.take(b),
    }


def _nothing(names: Sequence[str], n: int) -> dict[str, pa.Array]:
    return {name: pa.nulls(n, VOTES.field(name).type) for name in names}
