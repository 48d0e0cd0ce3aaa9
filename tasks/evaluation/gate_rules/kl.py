"""The policy has not moved too far from the initial one."""

from typing import Literal

from pydantic import Field

from tasks.evaluation.gate_rules.base import Check, GateRule, RoundMetrics

_NORMAL = 1.96  # half of a 95 % interval, in standard errors


class DivergenceRule(GateRule):
    """The upper end (95 %) of the divergence from the initial policy is at most `most` nats a reply."""

    kind: Literal["kl"] = "kl"
    most: float = Field(ge=0)

    def check(self, metrics: RoundMetrics) -> Check:
        mean, error = metrics.policy.kl.mean, metrics.policy.kl.se or 0.0  # None with one prompt
        high = mean + _NORMAL * error
        measured = f"KL to the initial policy {mean:.3g} ±{_NORMAL * error:.2g} nats a reply"
        return Check(high <= self.most, f"{measured}; its upper end at most {self.most:g}")
