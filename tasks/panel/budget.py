"""Spending against the budget of a labeling pass. Once it is spent, running requests finish and no others start."""

import time

from storage.errors import UserError
from tasks.panel.annotators.protocol import Answer
from tasks.panel.settings import Budget


class Spending:
    """Adds up the tokens and cost of answers, stored ones included, and the seconds of this pass."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._started = time.monotonic()
        self._tokens, self._money = 0, 0.0

    def add(self, answer: Answer) -> None:
        self._tokens += answer.tokens or 0
        self._money += answer.cost or 0.0

    @property
    def exhausted(self) -> bool:
        return any(used >= allowed for _, used, allowed in self._uses())

    def error(self, answered: int, questions: int) -> UserError:
        """The error to raise when the budget stopped a pass after `answered` of `questions`."""
        name, used, allowed = next(use for use in self._uses() if use[1] >= use[2])
        return UserError(
            f"the panel's budget is spent: {used:g} of {allowed:g} {name}; "
            f"{answered} of {questions} questions answered",
            where=f"panel.budget.{name}",
            remedy="raise the limit (not needed for seconds) and run the same command again; all answers are kept",
        )

    def _uses(self) -> list[tuple[str, float, float]]:
        budget = self._budget
        uses = [
            ("tokens", self._tokens, budget.tokens),
            ("money", self._money, budget.money),
            ("seconds", time.monotonic() - self._started, budget.seconds),
        ]
        return [(name, used, allowed) for name, used, allowed in uses if allowed is not None]
