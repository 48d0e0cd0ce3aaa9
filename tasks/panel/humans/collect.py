"""The label stage's side: hand the comparisons out, and take in what people have said of them."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from storage.schemas import VOTES
from tasks.panel.annotators.protocol import Comparison, Vote, VoteOutcome
from tasks.panel.humans.batch import export
from tasks.panel.humans.settings import HumanSettings
from tasks.panel.humans.votes import HumanVote, read_votes

log = logging.getLogger("irepo")

#: Exit code of a command that ends because people have to vote first.
EXIT_WAITING = 3

_NAMED = 5  # faults that a message spells out


class WaitingForVotes(Exception):
    """People have not said enough yet. Nothing is wrong: run the stage again when they have."""

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
class Collected:
    """What people said. Equal votes give equal contents, whatever the order in which they came."""

    votes: list[dict[str, Vote]]  # for each comparison, by annotator: "<name>/<person>", sorted; none where not asked
    faults: list[str]  # lines that were left out: file, line, why

    @property
    def annotators(self) -> list[str]:
        """Everybody who voted, sorted."""
        return sorted({annotator for votes in self.votes for annotator in votes})

    def rows(self, comparisons: Sequence[Comparison]) -> pa.Table:
        """Vote rows (storage.schemas.VOTES) on `comparisons`, those that were collected: by person, then as given."""
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


def collect(settings: HumanSettings, name: str, folder: Path, comparisons: Sequence[Comparison]) -> Collected:
    """Export `comparisons` to `folder` (see batch.export) and take in the votes that lie there.

    Each person is an annotator. A skip is an abstention. Raises WaitingForVotes below the quorum: while fewer than
    `share` of the comparisons that people are asked about have been answered by `votes` of them.
    """
    batch, places = export(settings, name, folder, comparisons)
    arrived = read_votes(folder, batch.questions)
    _warn(folder, "cannot be read", arrived.faults)
    _warn(folder, "are about no comparison of the batch", arrived.strangers)
    have = arrived.complete(settings.votes)
    if have < batch.about.needed:
        raise WaitingForVotes(folder, have, batch.about.needed)
    votes = [
        {f"{name}/{person}": _as_vote(vote, place.swapped) for person, vote in arrived.votes.get(place.id, {}).items()}
        if place
        else {}
        for place in places
    ]
    return Collected(votes, arrived.faults + arrived.strangers)


def _warn(folder: Path, what: str, lines: list[str]) -> None:
    if lines:
        more = f", and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
        log.warning("%s: %d lines %s: %s%s", folder, len(lines), what, "; ".join(lines[:_NAMED]), more)


_OUTCOMES: dict[str, VoteOutcome] = {"a": "a", "b": "b", "tie": "tie", "skip": "abstain"}
_SWAPPED: dict[str, VoteOutcome] = _OUTCOMES | {"a": "b", "b": "a"}


def _as_vote(vote: HumanVote, swapped: bool) -> Vote:
    """The vote on a comparison whose a is the question's a, or (`swapped`) its b."""
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
