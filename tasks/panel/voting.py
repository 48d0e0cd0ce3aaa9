"""The panel votes: all annotators at the same time on every comparison; answers are stored as they arrive."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.arrays import Ints
from storage.errors import UserError
from storage.files import digest
from storage.schemas import SCORES, VOTES
from storage.stage import Progress, Spec, silent
from tasks.panel.annotators.protocol import (
    Annotator,
    HoldsModel,
    LocalAnnotator,
    RemoteAnnotator,
    Response,
    is_remote,
)
from tasks.panel.answers import as_table
from tasks.panel.budget import Spending
from tasks.panel.journal import Journal
from tasks.panel.parts import Parts
from tasks.panel.questions import PanelVotes, Questions
from tasks.panel.remote import ask_all
from tasks.panel.settings import Budget


@dataclass(frozen=True)
class AnswerStore:
    """Where a labeling pass stores answers before it ends."""

    parts: Parts  # batches of local annotators
    journals: Path  # folder for the answers of remote annotators


def vote(
    annotators: Sequence[Annotator],
    responses: Sequence[Response],
    comparisons: Ints,
    store: AnswerStore,
    progress: Progress = silent,
    budget: Budget = Budget(),  # noqa: B008  (frozen)
) -> PanelVotes:
    """Have each annotator judge `comparisons` [n, 2], rows (a, b) of positions in `responses`.

    Score annotators score every response once, and ranking annotators rank the responses that are compared with each
    other; votes follow from both. Remote annotators work at the same time, and beside them the lanes of local ones. A
    question with a stored answer is not asked again. An annotator that is given up is in `outages` of the result; the
    others still answer all their questions. Raises UserError for an empty panel, a spent budget, and the errors of
    annotators.
    """
    if not annotators:
        raise UserError("the panel has no annotator", where="annotators", remedy="add at least one, e.g. panel=rules")
    questions = Questions(responses, np.asarray(comparisons).reshape(-1, 2))
    answers = asyncio.run(_ask_panel(annotators, questions, store, Spending(budget), progress))
    return PanelVotes(
        scores=pa.concat_tables([annotator.scores for annotator in answers]),
        votes=pa.concat_tables([annotator.votes for annotator in answers]),
        outages={name: why for annotator in answers for name, why in annotator.outages.items()},
    )


async def _ask_panel(
    annotators: Sequence[Annotator], questions: Questions, store: AnswerStore, spending: Spending, progress: Progress
) -> list[PanelVotes]:
    """The scores and votes of each annotator, in order. Answers are Python objects only while their annotator works."""
    results = [PanelVotes(SCORES.empty_table(), VOTES.empty_table()) for _ in annotators]
    counts = _Counts([len(questions.of(annotator.answer_type)) for annotator in annotators], progress)
    stopped = threading.Event()

    def work_lane(lane: list[tuple[int, LocalAnnotator]]) -> None:
        for number, annotator in lane:
            own_questions = questions.of(annotator.answer_type)
            try:
                answers = store.parts.gather(number, annotator, own_questions, counts.of(number), stopped)
            finally:
                if isinstance(annotator, HoldsModel):
                    annotator.close()  # the next one in this lane needs the memory
            if stopped.is_set():
                break  # another annotator failed: these answers are incomplete
            results[number] = questions.panel_votes(annotator, answers)

    async def ask(number: int, annotator: RemoteAnnotator) -> None:
        own_questions = questions.of(annotator.answer_type)
        with Journal(store.journals, annotator.name, annotator.identity, annotator.answer_type) as journal:
            asked = await ask_all(annotator, own_questions, journal, spending, counts.of(number))
        panel_votes = questions.panel_votes(annotator, as_table(annotator.answer_type, asked.answers))
        results[number] = (
            panel_votes if asked.outage is None else replace(panel_votes, outages={annotator.name: asked.outage})
        )

    lanes: dict[str, list[tuple[int, LocalAnnotator]]] = {}
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
    return results


def _first(failed: BaseException) -> BaseException:
    """The failure to report when several annotators failed."""
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed


class _Counts:
    """Progress of the whole panel, summed over its annotators, which work in several threads."""

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
    """The seed of annotators that draw at random: different for stages and rounds that share a seed."""
    return int(digest([spec.stage, spec.round, spec.seed])[:16], 16)
