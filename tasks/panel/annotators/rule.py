"""Annotator of kind `rule`: points for regular expressions, lengths, and instructions that a program can check."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from storage.errors import UserError
from tasks.panel.annotators.checks import SKIPPED, complain, holds
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer


class RuleSettings(Scorer):
    """A check that needs no model: score = points of the rules that hold."""

    kind: Literal["rule"]
    require: list[str] = Field([])  # regular expressions; +1 each that is found
    forbid: list[str] = Field([])  # regular expressions; -1 each that is found
    max_words: int | None = Field(None, ge=1)  # -1 when longer
    min_words: int | None = Field(None, ge=1)  # -1 when shorter
    shorter: bool = False  # score = -words (use tie_margin for 'about as long')
    checks: list[dict[str, Any]] = Field([])  # {check: "punctuation:no_comma"}; +1 each that holds; names in checks.py
    prompt_checks: bool = False  # the same from each prompt's `answer`, a JSON list of such objects


class Rule:
    """Points add up. Raises UserError when no rule is set, an expression does not compile or a check is unknown."""

    kind: Literal["scores"] = "scores"
    lane: Literal["python"] = "python"

    def __init__(self, name: str, settings: RuleSettings) -> None:
        fields = settings.model_dump(exclude={"kind", "tie_margin"})
        if not any(fields.values()):
            raise UserError(
                "no rule is set, so every comparison would be a tie",
                where=f"annotators.{name}",
                remedy=f"set one of {', '.join(fields)}",
            )
        self.name = name
        self.tie_margin = settings.tie_margin
        self._settings = settings
        self._require = [_compile(name, "require", pattern) for pattern in settings.require]
        self._forbid = [_compile(name, "forbid", pattern) for pattern in settings.forbid]
        self._checks = [_split(each) for each in settings.checks]
        for check, arguments in self._checks:
            if wrong := complain(check, arguments):
                raise UserError(wrong, where=f"annotators.{name}.checks", remedy="mend its name or arguments")

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [self._score(response) for response in batch]

    def _score(self, response: Response) -> Score:
        try:
            points = self._points(response.text)
            points += sum(holds(response.text, *each) for each in self._checks)
            if not self._settings.prompt_checks:
                return Score("score", points)
            return self._prompt_score(response, points)
        except (ValueError, TypeError, LookupError) as error:  # of checks whose arguments are of a wrong type
            return Score("error", raw=f"{type(error).__name__}: {error}")

    def _prompt_score(self, response: Response, points: float) -> Score:
        """Raises ValueError (also of json), TypeError or LookupError when the prompt's answer is no list of checks."""
        if not (response.answer or "").strip():
            return Score("abstain")
        asked = [_split(each) for each in json.loads(response.answer or "")]
        done = [(check, holds(response.text, check, arguments)) for check, arguments in asked if check not in SKIPPED]
        skipped = [check for check, _ in asked if check in SKIPPED]
        said = {"followed": [c for c, ok in done if ok], "not": [c for c, ok in done if not ok], "skipped": skipped}
        raw = json.dumps({key: value for key, value in said.items() if value})
        if not done:
            return Score("abstain", raw=raw)
        return Score("score", points + sum(ok for _, ok in done), raw=raw)

    def _points(self, text: str) -> float:
        words = len(text.split())
        points = sum(1.0 for pattern in self._require if pattern.search(text))
        points -= sum(1.0 for pattern in self._forbid if pattern.search(text))
        if self._settings.max_words is not None and words > self._settings.max_words:
            points -= 1
        if self._settings.min_words is not None and words < self._settings.min_words:
            points -= 1
        if self._settings.shorter:
            points -= words
        return points


def _split(check: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of {"check": name, argument: value, ...}; arguments that are null are left out."""
    if not isinstance(check, Mapping):
        raise TypeError(f"a check is an object, not {check!r}")
    return str(check.get("check")), {key: value for key, value in check.items() if key != "check" and value is not None}


def _compile(name: str, field: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{pattern!r} is not a regular expression: {error}",
            where=f"annotators.{name}.{field}",
            remedy="mend it; a literal dot, bracket or plus needs a backslash",
        ) from None
