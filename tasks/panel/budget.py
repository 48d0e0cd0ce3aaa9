"""What a labeling pass may spend. Once it is spent, what is under way is finished, and nothing more is asked."""

import time

from storage.errors import UserError
from tasks.panel.annotators.protocol import Answer
from tasks.panel.settings import Budget


class Purse:
    """Adds up what answers cost, those kept from before included; seconds are those of this pass."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._started = time.monotonic()
        self._tokens, self._money = 0, 0.0

    def add(self, answer: Answer) -> None:
        self._tokens += answer.tokens or 0
        self._money += answer.cost or 0.0

    @property
    def spent(self) -> bool:
        return any(used >= allowed for _, used, allowed in self._uses())

    def error(self, answered: int, asked: int) -> UserError:
        """What to say when the budget has stopped a pass after `answered` of `asked` questions."""
        name, used, allowed = next(use for use in self._uses() if use[1] >= use[2])
        return UserError(
            f"the panel's budget is spent: {used:g} of {allowed:g} {name}; {answered} of {asked} questions answered",
            where=f"panel.budget.{name}",
            remedy="raise it (or, for seconds, just wait) and give the same command again: every answer is kept",
        )

    def _uses(self) -> list[tuple[str, float, float]]:
        budget = self._budget
        uses = [
            ("tokens", self._tokens, budget.tokens),
            ("money", self._money, budget.money),
            ("seconds", time.monotonic() - self._started, budget.seconds),
        ]
        return [(name, used, allowed) for name, used, allowed in uses if allowed is not None]
