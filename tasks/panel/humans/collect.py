"""The label stage's side of voting: export the comparisons, and collect the votes on them."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from storage.schemas import VOTES
from tasks.panel.annotators.human import HumanSettings
from tasks.panel.annotators.protocol import Comparison, Vote, VoteOutcome
from tasks.panel.humans.batch import export
from tasks.panel.humans.votes import HumanVote, ReceivedVotes, read_batch_votes

log = logging.getLogger("irepo")

#: Exit code of a command that ends because it waits for people's votes.
EXIT_WAITING = 3

_LISTED = 5  # bad lines that a log message lists


class WaitingForVotes(Exception):
    """There are not enough votes yet. This is not an error: run the stage again when people have voted."""

    def __init__(self, folder: Path, have: int, need: int) -> None:
        super().__init__(folder, have, need)
        self.folder = folder
        self.have = have
        self.need = need

    def __str__(self) -> str:
        return (
            f"waiting for people: {self.have} of {self.need} comparisons have their votes\n"
            f"  where:   {self.folder}\n"
            f"  to vote: python -m tasks.panel.humans {self.folder}"
        )


@dataclass(frozen=True)
class CollectedVotes:
    """The votes of people. Their order of arrival makes no difference."""

    votes: list[dict[str, Vote]]  # per comparison, by voter "<name>/<person>", sorted
    faults: list[str]  # lines that were ignored: file, line, reason

    @property
    def annotators(self) -> list[str]:
        """All voters, sorted."""
        return sorted({annotator for votes in self.votes for annotator in votes})

    def rows(self, comparisons: Sequence[Comparison]) -> pa.Table:
        """Vote rows (storage.schemas.VOTES) on the collected `comparisons`, by voter, then in their order."""
        rows = [
            {
                "prompt_id": comparison.a.prompt_id,
                "source_a": comparison.a.source,
                "index_a": comparison.a.index,
                "source_b": comparison.b.source,
                "index_b": comparison.b.index,
                "annotator": annotator,
                "kind": "pairs",
            }
            | asdict(votes[annotator])
            for annotator in self.annotators
            for comparison, votes in zip(comparisons, self.votes, strict=True)
            if annotator in votes
        ]
        return pa.Table.from_pylist(rows, schema=VOTES)


def collect(settings: HumanSettings, name: str, folder: Path, comparisons: Sequence[Comparison]) -> CollectedVotes:
    """Export `comparisons` to `folder` (see batch.export) and collect the votes in it.

    Each person is an annotator. A skip is an abstention. Who passed fewer attention checks than `least_passed` is left
    out. Raises WaitingForVotes while fewer than `share` of the
    comparisons in the batch have the answers of `votes` people.
    """
    batch, places = export(settings, name, folder, comparisons)
    received = read_batch_votes(batch)
    _warn(folder, "cannot be read", received.faults)
    _warn(folder, "are about a comparison that is not in the batch", received.unknown)
    _say_attention(name, received)
    have = received.complete(settings.votes)
    if have < batch.info.needed:
        raise WaitingForVotes(folder, have, batch.info.needed)
    votes = [
        {f"{name}/{person}": _as_vote(vote, place.swapped) for person, vote in received.votes.get(place.id, {}).items()}
        if place
        else {}
        for place in places
    ]
    return CollectedVotes(votes, received.faults + received.unknown)


def _warn(folder: Path, what: str, lines: list[str]) -> None:
    if lines:
        more = f", and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
        log.warning("%s: %d lines %s: %s%s", folder, len(lines), what, "; ".join(lines[:_LISTED]), more)


def _say_attention(name: str, received: ReceivedVotes) -> None:
    for person, how in received.attention.items():
        log.info("%s/%s passed %d of %d attention checks", name, person, how.passed, how.answered)
    for person, votes in received.left_out.items():
        log.warning("%s/%s passed too few attention checks: %d votes do not count", name, person, votes)


_OUTCOMES: dict[str, VoteOutcome] = {"a": "a", "b": "b", "tie": "tie", "skip": "abstain"}
_SWAPPED: dict[str, VoteOutcome] = _OUTCOMES | {"a": "b", "b": "a"}


def _as_vote(vote: HumanVote, swapped: bool) -> Vote:
    """The vote on a comparison whose a is the item's a, or (`swapped`) its b."""
    a_first = (vote.order == "ab") != swapped
    outcome = (_SWAPPED if swapped else _OUTCOMES)[vote.outcome]
    return Vote(
        outcome,
        order="ab" if a_first else "ba",
        ab=outcome if a_first else None,
        ba=None if a_first else outcome,
        raw=vote.note,
        seconds=vote.seconds,
    )
