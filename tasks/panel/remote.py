"""Ask a remote annotator all questions that have no stored answer, many at once."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.panel.annotators.protocol import (
    UNANSWERED,
    Answer,
    AnswerType,
    Fault,
    Question,
    Ranking,
    RemoteAnnotator,
    Score,
    Vote,
)
from tasks.panel.budget import Spending
from tasks.panel.chat import faults_met
from tasks.panel.circuit_breaker import CircuitBreaker
from tasks.panel.journal import Journal, content_key


async def ask_all(
    annotator: RemoteAnnotator,
    questions: Sequence[Question],
    journal: Journal,
    spending: Spending,
    done: Callable[[int], None],
) -> list[Answer]:
    """The annotator's answers, in order. Equal questions are asked once; answers go to `journal` as they arrive.

    A question that faults, or is not asked because the annotator is given up, becomes an error that is not stored: the
    next run asks it again. `done` is called with the number of questions answered. Raises UserError when the budget is
    spent, and what `connected` raises.
    """
    keys = [content_key(question) for question in questions]
    answers: dict[str, Answer] = {key: journal.answers[key] for key in keys if key in journal.answers}
    for answer in answers.values():
        spending.add(answer)
    times = Counter(keys)
    answered = sum(times[key] for key in answers)
    done(answered)
    position = {key: index for index, key in enumerate(keys)}
    left = deque(key for key in position if key not in answers)
    breaker = CircuitBreaker(annotator.name, annotator.limits)
    last_fault = ""

    async def work() -> None:
        nonlocal answered, last_fault
        while left and not spending.exhausted:
            permission = await breaker.permission()
            if permission == "give up" or not left or spending.exhausted:
                return
            key = left.popleft()
            faults: list[str] = []
            faults_met.set(faults)
            started = time.monotonic()
            try:
                answer: Answer = await annotator.ask(questions[position[key]])
            except Fault as fault:
                last_fault = str(fault)
                answer = failure(annotator.answer_type, last_fault, faults, time.monotonic() - started)
                breaker.fault(permission, last_fault)
            else:
                answer = replace(answer, faults=", ".join(faults) or None)
                breaker.answered()
                journal.add(key, answer)
            answers[key] = answer
            spending.add(answer)
            answered += times[key]
            done(answered)

    if left:
        async with annotator.connected(), asyncio.TaskGroup() as group:
            for _ in range(min(annotator.limits.concurrency, len(left))):
                group.create_task(work())
    if left and spending.exhausted:
        raise spending.error(answered, len(questions))
    for key in left:
        answers[key] = failure(annotator.answer_type, f"not asked: given up after {last_fault}", [], None)
    done(len(questions))
    return [answers[key] for key in keys]


def failure(answer_type: AnswerType, what: str, faults: Sequence[str], seconds: float | None) -> Answer:
    """The answer to a question that nobody answered: an error with the reason."""
    all_faults = ", ".join([*faults, UNANSWERED])
    if answer_type == "scores":
        return Score("error", raw=what, seconds=seconds, faults=all_faults)
    if answer_type == "pairs":
        return Vote("error", raw=what, seconds=seconds, faults=all_faults)
    return Ranking("error", raw=what, seconds=seconds, faults=all_faults)
