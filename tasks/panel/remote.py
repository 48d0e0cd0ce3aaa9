"""Ask a remote annotator everything that it has not said before, many questions at once."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tasks.panel.annotators.protocol import (
    UNANSWERED,
    Answer,
    Fault,
    Kind,
    Question,
    Ranking,
    Remote,
    Score,
    Vote,
)
from tasks.panel.budget import Purse
from tasks.panel.chat import faults_met
from tasks.panel.circuit_breaker import Circuit
from tasks.panel.journal import Journal, content_key


async def ask_all(
    annotator: Remote, questions: Sequence[Question], journal: Journal, purse: Purse, done: Callable[[int], None]
) -> list[Answer]:
    """The annotator's answers, in order. Equal questions are asked once; answers go to `journal` as they come.

    A fault, and what is left when the annotator is given up, is an error that nobody keeps: whoever resumes asks
    again. Raises UserError when the budget is spent, and what `connected` raises. `done` is told how many are answered.
    """
    keys = [content_key(question) for question in questions]
    said: dict[str, Answer] = {key: journal.answers[key] for key in keys if key in journal.answers}
    for answer in said.values():
        purse.add(answer)
    done(sum(key in said for key in keys))
    times: dict[str, int] = {}
    for key in keys:
        times[key] = times.get(key, 0) + 1
    asked = {key: place for place, key in enumerate(keys)}
    left = deque(key for key in asked if key not in said)
    answered = sum(times[key] for key in said)
    circuit = Circuit(annotator.name, annotator.limits)
    last_fault = ""

    async def work() -> None:
        nonlocal answered, last_fault
        while left and not purse.spent:
            leave = await circuit.leave()
            if leave == "give up" or not left or purse.spent:
                return
            key = left.popleft()
            faults: list[str] = []
            faults_met.set(faults)
            started = time.monotonic()
            try:
                answer: Answer = await annotator.ask(questions[asked[key]])
            except Fault as fault:
                last_fault = str(fault)
                answer = failure(annotator.kind, last_fault, faults, time.monotonic() - started)
                circuit.fault(leave, last_fault)
            else:
                answer = replace(answer, faults=", ".join(faults) or None)
                circuit.answered()
                journal.add(key, answer)
            said[key] = answer
            purse.add(answer)
            answered += times[key]
            done(answered)

    if left:
        async with annotator.connected(), asyncio.TaskGroup() as group:
            for _ in range(min(annotator.limits.concurrency, len(left))):
                group.create_task(work())
    if left and purse.spent:
        raise purse.error(answered, len(questions))
    for key in left:
        said[key] = failure(annotator.kind, f"not asked: given up after {last_fault}", [], None)
    done(len(questions))
    return [said[key] for key in keys]


def failure(kind: Kind, what: str, faults: Sequence[str], seconds: float | None) -> Answer:
    """The answer of nobody: an error, with how it failed."""
    fields: dict[str, Any] = {"raw": what, "seconds": seconds, "faults": ", ".join([*faults, UNANSWERED])}
    if kind == "scores":
        return Score("error", **fields)
    return Vote("error", **fields) if kind == "pairs" else Ranking("error", **fields)
