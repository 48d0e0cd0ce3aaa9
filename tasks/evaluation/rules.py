"""Rules of the automatic gate: a round's policy is promoted when all of them hold, and not otherwise.

A rule compares figures of the round's evaluation with a bound, or with those of a rival: `initial` (the policy that the
run started from) or `previous` (the one that the round started from). Where a figure has an interval, its worse end
counts. A figure that was not measured, because every judge abstained, breaks its rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.evaluation.gate import Breach, Decision, Reason
from tasks.evaluation.harness.stage import Score
from tasks.evaluation.intervals import Interval
from tasks.evaluation.metrics import Metrics

Rival = Literal["initial", "previous"]
_NORMAL = 1.96  # half of a 95 % interval, in standard errors


@dataclass(frozen=True)
class Standing:
    """Figures of a round's policy and of both rivals; `first`: the round started from the initial policy."""

    figures: Metrics
    initial: Metrics
    previous: Metrics
    first: bool

    def of(self, rival: Rival) -> Metrics:
        return self.initial if rival == "initial" else self.previous

    def win_rate(self, rival: Rival, judge: str) -> Interval | None:
        """The interval of how often the policy beat the rival; None when no comparison counted."""
        source = "initial" if self.first else rival  # a round from the initial policy is compared with it once
        return self.figures.win_rate.get(source, {}).get(judge)


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    # What a broken rule does. Either way the next round starts where this one did; after `stop` there is none.
    broken: Breach = "roll back"


class WinRateRule(_Rule):
    """The lower end of the win rate against a rival is at least `least`, by one judge or (judge: null) by each."""

    kind: Literal["win_rate"]
    against: Rival = "previous"
    judge: str | None = None
    least: float = Field(0.5, ge=0, le=1)

    def check(self, standing: Standing, judges: tuple[str, ...]) -> tuple[bool, str]:
        holds, said = True, []
        for judge in judges if self.judge is None else (self.judge,):
            rate = standing.win_rate(self.against, judge)
            holds = holds and rate is not None and rate.low >= self.least
            said.append(f"{_interval(rate)} by {judge}")
        return holds, f"win rate against {self.against} {', '.join(said)}; its lower end at least {self.least:g}"


class DivergenceRule(_Rule):
    """The upper end (95 %) of the divergence from the initial policy is at most `most` nats a reply."""

    kind: Literal["kl"]
    most: float = Field(ge=0)

    def check(self, standing: Standing, judges: tuple[str, ...]) -> tuple[bool, str]:
        mean, error = standing.figures.kl.mean, standing.figures.kl.se or 0.0  # None with one prompt
        high = mean + _NORMAL * error
        said = f"KL to the initial policy {mean:.3g} ±{_NORMAL * error:.2g} nats a reply"
        return high <= self.most, f"{said}; its upper end at most {self.most:g}"


class LengthRule(_Rule):
    """Replies have at most `growth` times the tokens of the rival's."""

    kind: Literal["length"]
    against: Rival = "initial"
    growth: float = Field(gt=0)

    def check(self, standing: Standing, judges: tuple[str, ...]) -> tuple[bool, str]:
        now, then = standing.figures.tokens, standing.of(self.against).tokens
        said = f"{now:.1f} tokens a reply against {then:.1f} of {self.against}; at most {self.growth:g} times as many"
        return now <= self.growth * then, said


class FinishRule(_Rule):
    """At least this share of replies ends by itself."""

    kind: Literal["finish_rate"]
    least: float = Field(ge=0, le=1)

    def check(self, standing: Standing, judges: tuple[str, ...]) -> tuple[bool, str]:
        rate = standing.figures.finish_rate
        return rate >= self.least, f"{rate:.1%} of replies end by themselves; at least {self.least:.1%}"


class RateRule(_Rule):
    """A rate of the evaluation fell by at most `drop` and rose by at most `rise`, compared with the rival's."""

    kind: Literal["rate"]
    rate: str
    against: Rival = "previous"
    drop: float | None = Field(None, ge=0)  # of a rate that is better when high
    rise: float | None = Field(None, ge=0)  # of one that is better when low

    @model_validator(mode="after")
    def _bounded(self) -> "RateRule":
        if self.drop is None and self.rise is None:
            raise ValueError("give drop (of a rate that is better when high) or rise (of one that is better when low)")
        return self

    def check(self, standing: Standing, judges: tuple[str, ...]) -> tuple[bool, str]:
        now = standing.figures.rates.get(self.rate)
        then = standing.of(self.against).rates.get(self.rate)
        bounds = {"drop": self.drop, "rise": self.rise}
        most = " and ".join(f"a {name} of {bound:g}" for name, bound in bounds.items() if bound is not None)
        if now is None or then is None:
            return False, f"{self.rate} was not measured of both policies; at most {most}"
        holds = (self.drop is None or now.mean >= then.mean - self.drop) and (
            self.rise is None or now.mean <= then.mean + self.rise
        )
        return holds, f"{self.rate} {now.mean:.3f} against {then.mean:.3f} of {self.against}; at most {most}"


class HarnessRule(_Rule):
    """Scores of lm-eval's tasks are at most `drop` worse than the rival's: of one task, or (task: null) of each.

    Where less is better, as with perplexity, worse is more. A task is compared in each of its metrics.
    """

    kind: Literal["harness"]
    task: str | None = None
    against: Rival = "initial"
    drop: float = Field(ge=0)  # in units of the metric: 0.01 is one point of accuracy

    def check(self, standing: Standing, judges: tuple[str, ...]) -> tuple[bool, str]:
        now, then = _harness_scores(standing.figures), _harness_scores(standing.of(self.against))
        wanted = set(now) | set(then) if self.task is None else {self.task}
        holds, said = bool(wanted & set(now)), []
        for task in sorted(wanted):
            for metric in sorted({*now.get(task, {}), *then.get(task, {})}):
                mine, theirs = now.get(task, {}).get(metric), then.get(task, {}).get(metric)
                if mine is None or theirs is None:
                    holds = False
                    said.append(f"{task} {metric} was not measured of both policies")
                    continue
                lost = theirs.value - mine.value
                if not (lost if mine.higher_is_better else -lost) <= self.drop:
                    holds = False
                    said.append(f"{task} {metric} {mine.value:.4g} against {theirs.value:.4g} of {self.against}")
        fine = f"{len(wanted)} compared with {self.against}" if holds else "nothing was measured"
        return holds, f"benchmarks: {', '.join(said) or fine}; at most {self.drop:g} worse"


Rule = Annotated[
    WinRateRule | DivergenceRule | LengthRule | FinishRule | RateRule | HarnessRule, Field(discriminator="kind")
]


def unknown_tasks(rules: Mapping[str, Rule], tasks: Sequence[str]) -> list[str]:
    """One sentence for each rule on tasks of lm-eval that the run does not ask."""
    found = []
    for name, rule in rules.items():
        if isinstance(rule, HarnessRule) and (not tasks if rule.task is None else rule.task not in tasks):
            asked = "any task" if rule.task is None else f"the task {rule.task!r}"
            found.append(f"gate.rules.{name}: the harness does not have {asked} (it has: {', '.join(tasks) or 'none'})")
    return found


def unknown_names(rules: Mapping[str, Rule], judges: tuple[str, ...], rates: tuple[str, ...]) -> list[str]:
    """One sentence for each rule that an evaluation with these judges and rates could never answer."""
    found = []
    for name, rule in rules.items():
        if isinstance(rule, WinRateRule) and (not judges if rule.judge is None else rule.judge not in judges):
            asked = "any judge" if rule.judge is None else f"the judge {rule.judge!r}"
            found.append(f"rules.{name}: the evaluation does not have {asked} (it has: {', '.join(judges) or 'none'})")
        if isinstance(rule, RateRule) and rule.rate not in rates:
            known = ", ".join(rates) or "none"
            found.append(f"rules.{name}: the evaluation does not have the rate {rule.rate!r} (it has: {known})")
    return found


def decide(
    rules: Mapping[str, Rule], standing: Standing, *, judges: tuple[str, ...], patience: int | None, fruitless: int
) -> Decision:
    """Promote when every rule holds; otherwise roll back, and end the run where a broken rule or patience says so.

    judges: the evaluation's.  fruitless: how many rounds just before this one were rolled back.
    """
    reasons = []
    for name, rule in rules.items():
        holds, says = rule.check(standing, judges)
        reasons.append(Reason(rule=name, holds=holds, says=says, broken=rule.broken))
    broken = [reason for reason in reasons if not reason.holds]
    if not broken:
        return Decision(action="promote", by="policy", reasons=tuple(reasons))
    if patience is not None:
        waited = f"{fruitless + 1} in a row without promotion; the run ends at {patience}"
        reasons.append(Reason(rule="patience", holds=fruitless + 1 < patience, says=waited, broken="stop"))
    last = any(reason.broken == "stop" for reason in reasons if not reason.holds)
    note = f"broken: {', '.join(reason.rule for reason in broken)}"
    return Decision(action="roll back", by="policy", note=note, last=last, reasons=tuple(reasons))


def _harness_scores(figures: Metrics) -> Mapping[str, Mapping[str, Score]]:
    return figures.harness.scores if figures.harness else {}


def _interval(rate: Interval | None) -> str:
    return f"{rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}]" if rate else "not measured"
