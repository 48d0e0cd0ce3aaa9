"""How far people agree: with each other, with themselves over a second question, and with attention checks."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tasks.panel.humans.attention import Attention
from tasks.panel.humans.votes import HumanVote, ReceivedVotes

_VERDICTS = ("a", "b", "tie")

Votes = Mapping[str, Mapping[str, HumanVote]]  # by comparison, then person


@dataclass(frozen=True)
class Agreement:
    """Over the `both` comparisons on which two sides gave a verdict (a, b or tie): how many are the `same`.

    kappa: Cohen's, which is 0 for agreement by chance; None where chance alone explains everything.
    """

    both: int
    same: int
    kappa: float | None


@dataclass(frozen=True)
class PersonSummary:
    """One person's votes on a batch. seconds: the median from first sight to vote; None where no vote says."""

    person: str
    votes: int
    ties: int
    skips: int
    seconds: float | None
    others: Agreement
    attention: Attention
    left_out: bool


@dataclass(frozen=True)
class BatchAgreement:
    """People on a batch. pairs: every two people who share a comparison. second: answers to the second question
    against the votes of the same person."""

    people: list[PersonSummary]
    pairs: list[tuple[str, str, Agreement]]
    second: Agreement


def summarize(received: ReceivedVotes) -> BatchAgreement:
    """Summaries by person, sorted by name."""
    votes = received.votes
    names = sorted({name for people in votes.values() for name in people} | set(received.attention))
    pairs = [(one, other, _between(votes, one, other)) for one, other in combinations(names, 2)]
    both = [(vote.outcome, vote.second) for people in votes.values() for vote in people.values() if vote.second]
    return BatchAgreement(
        people=[_summary(received, name) for name in names],
        pairs=[pair for pair in pairs if pair[2].both],
        second=_agreement([(first, str(second)) for first, second in both if first in _VERDICTS]),
    )


def agreement_of(votes: Votes, person: str) -> Agreement:
    """A person against all others: each comparison counts once, with what most others said (a tie if they differ)."""
    given = []
    for people in votes.values():
        own = people.get(person)
        others = [vote.outcome for name, vote in people.items() if name != person and vote.outcome in _VERDICTS]
        if own is not None and own.outcome in _VERDICTS and others:
            ranked = Counter(others).most_common()
            best = [outcome for outcome, count in ranked if count == ranked[0][1]]
            given.append((own.outcome, best[0] if len(best) == 1 else "tie"))
    return _agreement(given)


def _summary(received: ReceivedVotes, person: str) -> PersonSummary:
    own = [people[person] for people in received.votes.values() if person in people]
    seconds = [vote.seconds for vote in own if vote.seconds is not None]
    return PersonSummary(
        person=person,
        votes=len(own),
        ties=sum(vote.outcome == "tie" for vote in own),
        skips=sum(vote.outcome == "skip" for vote in own),
        seconds=statistics.median(seconds) if seconds else None,
        others=agreement_of(received.votes, person),
        attention=received.attention.get(person, Attention(0, 0)),
        left_out=person in received.left_out,
    )


def _between(votes: Votes, one: str, other: str) -> Agreement:
    shared = [(people[one].outcome, people[other].outcome) for people in votes.values() if {one, other} <= set(people)]
    return _agreement([pair for pair in shared if pair[0] in _VERDICTS and pair[1] in _VERDICTS])


def _agreement(pairs: Sequence[tuple[str, str]]) -> Agreement:
    both, same = len(pairs), sum(one == other for one, other in pairs)
    if not both:
        return Agreement(0, 0, None)
    first, second = (Counter(side) for side in zip(*pairs, strict=True))
    chance = sum(first[verdict] * second[verdict] for verdict in _VERDICTS) / both**2
    return Agreement(both, same, (same / both - chance) / (1 - chance) if chance < 1 else None)
