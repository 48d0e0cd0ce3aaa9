"""Annotator of kind `rule`: points for regular expressions, lengths and instructions that a program can check."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from storage.errors import UserError
from tasks.panel.annotators.checks import SKIPPED, holds, problem_with
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer


class RuleSettings(Scorer):
    """Rules that need no model. The score is the sum of the points below."""

    kind: Literal["rule"] = "rule"
    require: list[str] = Field([])  # regular expressions; +1 for each that matches
    forbid: list[str] = Field([])  # regular expressions; -1 for each that matches
    max_words: int | None = Field(None, ge=1)  # -1 when longer
    min_words: int | None = Field(None, ge=1)  # -1 when shorter
    shorter: bool = False  # -1 per word (tie_margin: words that do not matter)
    checks: list[dict[str, object]] = Field([])  # {check: "punctuation:no_comma"}; +1 if it holds; see checks.py
    prompt_checks: bool = False  # also the checks in each prompt's `answer`, a JSON list of such objects

    def compares_with(self) -> Literal["answer"] | None:
        return "answer" if self.prompt_checks else None

    def open(self, name: str, *, seed: int) -> "Rule":
        return Rule(name, self)

    def check(self, name: str) -> None:
        self.open(name, seed=0)


class Rule:
    """The sum of the points. Raises UserError when no rule is set, an expression does not compile or a check is
    unknown."""

    answer_type: Literal["scores"] = "scores"
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
        self._checks = [_split(check) for check in settings.checks]
        for check, arguments in self._checks:
            if problem := problem_with(check, arguments):
                raise UserError(problem, where=f"annotators.{name}.checks", remedy="correct the name or the arguments")

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        return [self._score(response) for response in batch]

    def _score(self, response: Response) -> Score:
        try:
            points = self._points(response.text)
            points += sum(holds(response.text, *check) for check in self._checks)
            if not self._settings.prompt_checks:
                return Score("score", points)
            return self._prompt_score(response, points)
        except (ValueError, TypeError, LookupError) as error:  # a check's argument has the wrong type
            return Score("error", raw=f"{type(error).__name__}: {error}")

    def _prompt_score(self, response: Response, points: float) -> Score:
        """Raises ValueError, TypeError or LookupError when the prompt's answer is not a JSON list of checks."""
        if not (response.answer or "").strip():
            return Score("abstain")
        checks = [_split(check) for check in json.loads(response.answer or "")]
        results = [(check, holds(response.text, check, options)) for check, options in checks if check not in SKIPPED]
        summary = {
            "followed": [check for check, followed in results if followed],
            "not": [check for check, followed in results if not followed],
            "skipped": [check for check, _ in checks if check in SKIPPED],
        }
        raw = json.dumps({key: value for key, value in summary.items() if value})
        if not results:
            return Score("abstain", raw=raw)
        return Score("score", points + sum(followed for _, followed in results), raw=raw)

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


def _split(check: Mapping[str, Any]) -> tuple[str, dict[str, object]]:
    """(name, arguments) of {"check": name, argument: value, ...}, without arguments that are null."""
    if not isinstance(check, Mapping):
        raise TypeError(f"a check must be an object, not {check!r}")
    return str(check.get("check")), {key: value for key, value in check.items() if key != "check" and value is not None}


def _compile(name: str, field: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{pattern!r} is not a regular expression: {error}",
            where=f"annotators.{name}.{field}",
            remedy="correct it; a literal dot, bracket or plus needs a backslash",
        ) from None
