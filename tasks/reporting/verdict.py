"""What a run achieved, in one sentence: did it help, what got worse, what did it cost, what comes next."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.evaluation.divergence import Divergence
from tasks.evaluation.intervals import EXCLUDED, Interval
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.movement import cannot_be_told_apart
from tasks.reporting.duration import duration

_NORMAL = 1.96
Direction = Literal["higher", "lower"]
State = Literal["standing", "rolled back", "waits"]


@dataclass(frozen=True)
class Measured:
    """An evaluated round as the verdict reads it; round 0 is the initial policy. seconds: of all its stages.

    state: standing (promoted), rolled back, or waiting for a decision. cost: None where nothing has a price.
    """

    number: int
    metrics: Metrics
    seconds: float
    cost: float | None
    state: State


@dataclass(frozen=True)
class Aims:
    """What counts as better. judges: in the order of the configuration; truth: the one that is right by construction.

    better: for a rate, whether higher or lower is better; a rate that is not in it is only reported.
    """

    judges: Sequence[str] = ()
    truth: str | None = None
    better: Mapping[str, Direction] | None = None

    def direction(self, rate: str) -> Direction | None:
        """Which values of a rate are better; those of a judge are, when they are higher."""
        return (self.better or {}).get(rate) or ("higher" if rate in self.judges else None)


@dataclass(frozen=True)
class Change:
    """A figure of the initial policy and of the last one. half: of the 95 % interval of the difference.

    The interval takes the two means as independent, which is cautious: both are over the same prompts.
    """

    name: str
    before: Interval
    after: Interval
    direction: Direction | None

    @property
    def difference(self) -> float:
        return self.after.mean - self.before.mean

    @property
    def half(self) -> float:
        return math.hypot(*((each.high - each.low) / 2 for each in (self.before, self.after)))

    @property
    def verdict(self) -> Literal["better", "worse", "unclear", "changed", "same"]:
        """unclear: the interval of the difference holds 0. changed: it does not, and no direction is better."""
        if self.difference == 0:
            return "same"
        if abs(self.difference) <= self.half:
            return "unclear"
        if self.direction is None:
            return "changed"
        return "better" if (self.difference > 0) == (self.direction == "higher") else "worse"


@dataclass(frozen=True)
class Verdict:
    """headline: better, worse or neither, or why that is not known. worse: what got worse, each in a few words."""

    headline: str
    worse: Sequence[str]
    cost: str
    next: str

    def __str__(self) -> str:
        worse = f"Worse: {', '.join(self.worse)}." if self.worse else ""
        return " ".join(filter(None, [self.headline, worse, f"Cost: {self.cost}.", f"Next: {self.next}."]))


def verdict(rounds: Sequence[Measured], aims: Aims) -> Verdict | None:
    """The verdict on a run; None before a round after the initial one is evaluated."""
    trained = [each for each in rounds if each.number]
    if not trained or rounds[0].number:
        return None
    costs = [each.cost for each in rounds if each.cost is not None]
    spent = duration(sum(each.seconds for each in rounds)) + (f", {sum(costs):.2f} for judges" if costs else "")
    standing = last_standing(rounds)
    if standing is None:
        return Verdict(
            f"No better policy: {_all(len(trained))} rolled back, the initial policy stands.",
            (),
            spent,
            "read why under Decisions, then train with a lower learning rate or a larger objective.beta",
        )
    waits = trained[-1].state == "waits"
    headline, following = _headline(standing, aims)
    if waits:
        following = f"decide on round {trained[-1].number}: promote, roll back or stop"
    worse = [change.name for change in changes(rounds[0], standing, aims) if change.verdict == "worse"]
    return Verdict(headline, [*_lost_categories(standing, aims), *worse], spent, following)


def last_standing(rounds: Sequence[Measured]) -> Measured | None:
    """The last round after the initial one that was not rolled back."""
    standing = [each for each in rounds if each.number and each.state != "rolled back"]
    return standing[-1] if standing else None


def changes(initial: Measured, last: Measured, aims: Aims) -> list[Change]:
    """Rates of both rounds, then those by category, `category: rate`."""
    found = list(_changes("", initial.metrics.rates, last.metrics.rates, aims))
    for name, category in last.metrics.categories.items():
        before = initial.metrics.categories.get(name)
        found += _changes(f"{name}: ", before.rates if before else {}, category.rates, aims)
    return found


def _changes(
    prefix: str, before: Mapping[str, Interval], after: Mapping[str, Interval], aims: Aims
) -> Iterator[Change]:
    for name in after:
        if name in before:
            yield Change(prefix + name, before[name], after[name], aims.direction(name))


def deciding(metrics: Metrics, aims: Aims, against: str = "initial") -> tuple[str, Interval] | None:
    """The judge whose win rate the verdict is about, the truth or the first one, and that win rate."""
    rates = metrics.win_rate.get(against, {})
    for judge in [*([aims.truth] if aims.truth else []), *aims.judges, *rates]:
        if judge in rates:
            return judge, rates[judge]
    return None


def no_win_rate(metrics: Metrics) -> str:
    """Why there is no win rate against the initial policy, and what gives one."""
    for judge, reasons in metrics.excluded.votes.get("initial", {}).items():
        count = sum(reasons[reason] for reason in EXCLUDED)
        most = max(EXCLUDED, key=lambda reason: reasons[reason])
        said = {"abstain": "abstentions", "error": "errors"}[most]
        return (
            f"all {count} comparisons by {judge} are {said}; if the prompts have no `answer`, choose judges that need "
            "none: evaluation=judge, or evaluation.judges of your own"
        )
    return "the evaluation has no judges; choose evaluation=judge, or evaluation.judges of your own"


def won(rate: Interval) -> str:
    """`82 % of comparisons won [78, 85]`."""
    return f"{100 * rate.mean:.0f} % of comparisons won [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def nats(kl: Divergence) -> str:
    """A divergence with half its 95 % interval, with enough digits that a small one is not 0: `0.003 ± 0.005`."""
    digits = 2 if abs(kl.mean) >= 0.095 else 3
    mean = round(kl.mean, digits) + 0.0  # -0.0 becomes 0.0
    return f"{mean:.{digits}f}" + (f" ± {_NORMAL * kl.se:.{digits}f}" if kl.se else "")


def _headline(last: Measured, aims: Aims) -> tuple[str, str]:
    """The headline, and what to do next."""
    kl = last.metrics.kl
    if cannot_be_told_apart(kl):
        return (
            f"Not moved: the policy cannot be told from the initial one, KL {nats(kl)} nats a reply.",
            "raise training.learning_rate or training.epochs, or train on more prompts",
        )
    found = deciding(last.metrics, aims)
    if found is None:
        return f"No win rate: {no_win_rate(last.metrics)}.", "evaluate with judges before training on"
    judge, rate = found
    by = f"by the ground truth ({judge})" if judge == aims.truth else f"by {judge}"
    if rate.low > 0.5:
        return f"Better than the initial policy: {won(rate)} {by}.", _after_gain(last, aims)
    if rate.high < 0.5:
        return (
            f"Worse than the initial policy: {won(rate)} {by}.",
            "read its replies, then lower training.learning_rate or raise objective.beta",
        )
    return (
        f"No clear difference from the initial policy: {won(rate)} {by}.",
        "one more round, or more held-out prompts for a narrower interval",
    )


def _after_gain(last: Measured, aims: Aims) -> str:
    step = deciding(last.metrics, aims, "previous")
    if step is None or step[1].low > 0.5:
        return f"one more round (rounds={last.number + 1})"
    return f"stop here or change settings: round {last.number} is not clearly better than the round before"


def _lost_categories(last: Measured, aims: Aims) -> list[str]:
    """Categories in which the initial policy wins."""
    found = deciding(last.metrics, aims)
    rates = {
        name: category.win_rate.get("initial", {}).get(found[0] if found else "")
        for name, category in last.metrics.categories.items()
    }
    return [f"{name} ({won(rate)})" for name, rate in rates.items() if rate is not None and rate.high < 0.5]


def _all(rounds: int) -> str:
    return "the round was" if rounds == 1 else f"all {rounds} rounds were"
