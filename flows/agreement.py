"""How people on the panel voted and agreed, as lines for the terminal."""

from collections.abc import Iterator, Sequence

from tasks.panel.humans.agreement import Agreement, PersonSummary, summarize
from tasks.panel.humans.batch import Batch, batch_label
from tasks.panel.humans.votes import read_batch_votes

_HEADINGS = ("person", "votes", "ties", "skips", "seconds", "as others", "kappa", "checks passed")


def agreement_lines(batch: Batch) -> Iterator[str]:
    """A heading, a row for each person, every two people who share comparisons, and the second question."""
    received = read_batch_votes(batch)
    done = received.complete(batch.info.votes)
    yield f"{batch_label(batch.folder)}: {done} of {batch.info.needed} comparisons have their votes"
    found = summarize(received)
    if not found.people:
        yield "  nobody has voted yet"
        return
    yield from _table([_HEADINGS, *(_row(person) for person in found.people)])
    for one, other, agreement in found.pairs:
        yield f"  {one} and {other}: {_share(agreement)}, kappa {_kappa(agreement)}"
    if found.second.both:
        yield f"  the second question ({batch.info.second}) is answered like the first: {_share(found.second)}"
    for person in found.people:
        if person.left_out:
            yield f"  {person.person} passed too few attention checks: these votes do not count"


def _row(person: PersonSummary) -> tuple[str, ...]:
    passed, answered = person.attention.passed, person.attention.answered
    return (
        person.person,
        f"{person.votes}",
        f"{person.ties}",
        f"{person.skips}",
        "-" if person.seconds is None else f"{person.seconds:.1f}",
        _share(person.others),
        _kappa(person.others),
        f"{passed} of {answered}" if answered else "-",
    )


def _share(agreement: Agreement) -> str:
    return f"{agreement.same} of {agreement.both}" if agreement.both else "-"


def _kappa(agreement: Agreement) -> str:
    return "-" if agreement.kappa is None else f"{agreement.kappa:.2f}"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
