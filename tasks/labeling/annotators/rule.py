"""Annotator of kind `rule`: points for regular expressions and lengths."""

import re
from collections.abc import Sequence
from typing import Literal

from storage.errors import UserError
from tasks.labeling.annotators.protocol import Response, Score
from tasks.labeling.settings import RuleSettings


class Rule:
    """+1 for each required expression found, -1 for each forbidden one, -1 when too long, -words if shorter is better.

    Raises UserError when no rule is set or an expression does not compile.
    """

    kind: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"

    def __init__(self, name: str, settings: RuleSettings) -> None:
        if not (settings.require or settings.forbid or settings.max_words or settings.shorter):
            raise UserError(
                "no rule is set, so every comparison would be a tie",
                where=f"annotators.{name}",
                remedy="set require, forbid, max_words or shorter",
            )
        self.name = name
        self.tie_margin = settings.tie_margin
        self._settings = settings
        self._require = [_compile(name, "require", pattern) for pattern in settings.require]
        self._forbid = [_compile(name, "forbid", pattern) for pattern in settings.forbid]

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [Score("score", self._points(response.text)) for response in batch]

    def _points(self, text: str) -> float:
        words = len(text.split())
        points = sum(1.0 for pattern in self._require if pattern.search(text))
        points -= sum(1.0 for pattern in self._forbid if pattern.search(text))
        if self._settings.max_words is not None and words > self._settings.max_words:
            points -= 1
        if self._settings.shorter:
            points -= words
        return points


def _compile(name: str, field: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{pattern!r} is not a regular expression: {error}",
            where=f"annotators.{name}.{field}",
            remedy="mend it; a literal dot, bracket or plus needs a backslash",
        ) from None
