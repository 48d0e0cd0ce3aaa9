"""The panel: every annotator on every comparison, all at once; what they say is kept as it comes."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.arrays import Ints
from storage.errors import UserError
from storage.files import digest
from storage.schemas import SCORES, VOTES
from storage.stage import Progress, Spec, silent
from tasks.panel.annotators.protocol import Annotator, Local, Remote, Response, is_remote
from tasks.panel.answers import as_table
from tasks.panel.budget import Purse
from tasks.panel.journal import Journal
from tasks.panel.parts import Parts
from tasks.panel.questions import Ballot, Questions
from tasks.panel.remote import ask_all
from tasks.panel.settings import Budget


@dataclass(frozen=True)
class Keeping:
    """Where a pass keeps what is said before it ends: batches of local annotators, answers of remote ones."""

    parts: Parts
    answers: Path


def vote(
    annotators: Sequence[Annotator],
    responses: Sequence[Response],
    comparisons: Ints,
    keeping: Keeping,
    progress: Progress = silent,
    budget: Budget = Budget(),  # noqa: B008  (frozen)
) -> Ballot:
    """Have each annotator judge `comparisons` [n, 2], rows (a, b) of positions in `responses`.

    Score annotators score every response once, ranking annotators rank what is compared with each other, and both vote
    by that. Remote annotators are asked at the same time, local ones lane by lane beside them. What was said before is
    not asked again. Raises UserError for an empty panel, a spent budget, and what annotators refuse.
    """
    if not annotators:
        raise UserError(
            "the panel has no annotator", where="annotators", remedy="name at least one, e.g. panel=verifier"
        )
    questions = Questions(responses, np.asarray(comparisons).reshape(-1, 2))
    ballots = asyncio.run(_ask_panel(annotators, questions, keeping, Purse(budget), progress))
    return Ballot(
        pa.concat_tables([ballot.scores for ballot in ballots]), pa.concat_tables([ballot.votes for ballot in ballots])
    )


async def _ask_panel(
    annotators: Sequence[Annotator], questions: Questions, keeping: Keeping, purse: Purse, progress: Progress
) -> list[Ballot]:
    """One ballot an annotator, in their order. Answers are objects only while their annotator is at work."""
    ballots = [Ballot(SCORES.empty_table(), VOTES.empty_table()) for _ in annotators]
    counts = _Counts([len(questions.of(annotator.kind)) for annotator in annotators], progress)
    stopped = threading.Event()

    def work_lane(lane: list[tuple[int, Local]]) -> None:
        for number, annotator in lane:
            asked = questions.of(annotator.kind)
            said = keeping.parts.gather(number, annotator, asked, counts.of(number), stopped)
            if stopped.is_set():
                break  # another one failed: what was said is incomplete
            ballots[number] = questions.ballot(annotator, said)

    async def ask(number: int, annotator: Remote) -> None:
        with Journal(keeping.answers, annotator.name, annotator.identity, annotator.kind) as journal:
            said = await ask_all(annotator, questions.of(annotator.kind), journal, purse, counts.of(number))
        ballots[number] = questions.ballot(annotator, as_table(annotator.kind, said))

    lanes: dict[str, list[tuple[int, Local]]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            for number, annotator in enumerate(annotators):
                if is_remote(annotator):
                    group.create_task(ask(number, annotator))
                else:
                    lanes.setdefault(annotator.lane, []).append((number, annotator))
            for lane in lanes.values():
                group.create_task(asyncio.to_thread(work_lane, lane))
    except BaseExceptionGroup as failed:
        stopped.set()
        raise _first(failed) from None
    return ballots


def _first(failed: BaseException) -> BaseException:
    """The failure to tell of when several annotators failed."""
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed


class _Counts:
    """Progress of the whole panel from what each annotator has done; annotators work in several threads."""

    def __init__(self, totals: Sequence[int], progress: Progress) -> None:
        self._total = sum(totals)
        self._done = [0 for _ in totals]
        self._progress = progress
        self._lock = threading.Lock()
        progress(0, self._total, "judgements")

    def of(self, annotator: int) -> Callable[[int], None]:
        def done(count: int) -> None:
            with self._lock:
                self._done[annotator] = count
                self._progress(sum(self._done), self._total, "judgements")

        return done


def drawing_seed(spec: Spec) -> int:
    """The seed of annotators that draw: differs between stages and rounds that share a seed."""
    return int(digest([spec.stage, spec.round, spec.seed])[:16], 16)
