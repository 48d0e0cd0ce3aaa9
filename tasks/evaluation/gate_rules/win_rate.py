"""The win rate against a rival is high enough."""

from typing import Literal

from pydantic import Field

from tasks.evaluation.gate_rules.base import Check, GateRule, Measured, Rival, RoundMetrics, missing
from tasks.evaluation.intervals import Interval


class WinRateRule(GateRule):
    """The lower end of the win rate against a rival is at least `least`, by one judge or (judge: null) by every one."""

    kind: Literal["win_rate"] = "win_rate"
    against: Rival = "previous"
    judge: str | None = None
    least: float = Field(0.5, ge=0, le=1)

    def check(self, metrics: RoundMetrics) -> Check:
        judges = metrics.judges if self.judge is None else (self.judge,)
        rates = {judge: metrics.win_rate(self.against, judge) for judge in judges}
        holds = all(rate is not None and rate.low >= self.least for rate in rates.values())
        by_judge = ", ".join(f"{_text(rate)} by {judge}" for judge, rate in rates.items())
        return Check(holds, f"win rate against {self.against} {by_judge}; its lower end at least {self.least:g}")

    def unknown(self, measured: Measured) -> str | None:
        if self.judge is None:
            return None if measured.judges else f"the evaluation {missing('any judge', ())}"
        if self.judge in measured.judges:
            return None
        return f"the evaluation {missing(f'the judge {self.judge!r}', measured.judges)}"


def _text(rate: Interval | None) -> str:
    return f"{rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}]" if rate else "not measured"
