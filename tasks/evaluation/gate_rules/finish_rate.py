"""Enough replies end by themselves."""

from typing import Literal

from pydantic import Field

from tasks.evaluation.gate_rules.base import Check, GateRule, RoundMetrics


class FinishRule(GateRule):
    """At least the share `least` of replies ends by itself, before the token limit."""

    kind: Literal["finish_rate"] = "finish_rate"
    least: float = Field(ge=0, le=1)

    def check(self, metrics: RoundMetrics) -> Check:
        rate = metrics.policy.finish_rate
        return Check(rate >= self.least, f"{rate:.1%} of replies end by themselves; at least {self.least:.1%}")
