"""Replies have not grown too long."""

from typing import Literal

from pydantic import Field

from tasks.evaluation.gate_rules.base import Check, GateRule, Rival, RoundMetrics


class LengthRule(GateRule):
    """Replies have at most `growth` times as many tokens as those of the rival."""

    kind: Literal["length"] = "length"
    against: Rival = "initial"
    growth: float = Field(gt=0)

    def check(self, metrics: RoundMetrics) -> Check:
        now, before = metrics.policy.tokens, metrics.of(self.against).tokens
        measured = f"{now:.1f} tokens a reply against {before:.1f} of {self.against}"
        return Check(now <= self.growth * before, f"{measured}; at most {self.growth:g} times as many")
