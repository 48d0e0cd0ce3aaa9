"""What every gate rule is made of: settings, `check`, and `unknown`.

A rule compares metrics of the round's policy with a bound, or with those of a rival: `initial` (the policy that the
run started from) or `previous` (the policy that the round started from). Where a metric has an interval, its worse end
counts. A metric that was not measured, because every judge abstained, breaks its rule.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from tasks.evaluation.gate import Breach
from tasks.evaluation.intervals import Interval
from tasks.evaluation.metrics import Metrics

Rival = Literal["initial", "previous"]


@dataclass(frozen=True)
class RoundMetrics:
    """Metrics of the round's policy and of both rivals.

    first: the round started from the initial policy, so that both rivals are the same. judges: those of the evaluation.
    """

    policy: Metrics
    initial: Metrics
    previous: Metrics
    first: bool
    judges: Sequence[str]

    def of(self, rival: Rival) -> Metrics:
        """The metrics of a rival."""
        return self.initial if rival == "initial" else self.previous

    def win_rate(self, rival: Rival, judge: str) -> Interval | None:
        """How often the policy beats the rival, by `judge`; None when no comparison counts."""
        source = "initial" if self.first else rival  # a round that starts from the initial policy meets it only once
        return self.policy.win_rate.get(source, {}).get(judge)


@dataclass(frozen=True)
class Measured:
    """What the evaluation of a run measures: names of its judges, rates and lm-eval tasks."""

    judges: Sequence[str]
    rates: Sequence[str]
    tasks: Sequence[str]


@dataclass(frozen=True)
class Check:
    """Whether a rule holds, and the sentence with its metric and bound for decision.json and the report."""

    holds: bool
    says: str


class GateRule(BaseModel, ABC):
    """The settings of one rule. A kind is a subclass with a field `kind`, whose default is the word that chooses it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # What happens when the rule is broken. Both start the next round where this one started; `stop` also ends the run.
    broken: Breach = "roll back"

    if TYPE_CHECKING:
        kind: str

    @field_validator("kind", check_fields=False)
    @classmethod
    def _own_kind(cls, kind: str) -> str:
        word = cls.model_fields["kind"].default
        if kind != word and ":" not in kind:  # module:Class, where a configuration gives the class by its path
            raise ValueError(f"{cls.__qualname__} has the kind {word!r}")
        return kind

    @abstractmethod
    def check(self, metrics: RoundMetrics) -> Check:
        """Whether the round's policy satisfies this rule."""

    def unknown(self, measured: Measured) -> str | None:
        """What this rule needs and the evaluation does not measure, as one sentence; None when nothing is missing."""
        return None


def missing(what: str, known: Sequence[str]) -> str:
    """The sentence of `unknown`: `what` is missing, and the evaluation has `known`."""
    return f"does not have {what} (it has: {', '.join(known) or 'none'})"
