"""A rate of the evaluation has not become worse than a rival's."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.evaluation.gate_rules.base import Check, GateRule, Measured, Rival, RoundMetrics, missing


class RateRule(GateRule):
    """The mean of `rate` is at most `drop` below and at most `rise` above the rival's."""

    kind: Literal["rate"] = "rate"
    rate: str
    against: Rival = "previous"
    drop: float | None = Field(None, ge=0)  # for a rate that is better when high
    rise: float | None = Field(None, ge=0)  # for a rate that is better when low

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if self.drop is None and self.rise is None:
            raise ValueError("give drop (for a rate that is better high) or rise (for a rate that is better low)")
        return self

    def check(self, metrics: RoundMetrics) -> Check:
        now = metrics.policy.rates.get(self.rate)
        before = metrics.of(self.against).rates.get(self.rate)
        bounds = {"drop": self.drop, "rise": self.rise}
        most = " and ".join(f"a {name} of {bound:g}" for name, bound in bounds.items() if bound is not None)
        if now is None or before is None:
            return Check(False, f"{self.rate} was not measured of both policies; at most {most}")
        holds = (self.drop is None or now.mean >= before.mean - self.drop) and (
            self.rise is None or now.mean <= before.mean + self.rise
        )
        return Check(holds, f"{self.rate} {now.mean:.3f} against {before.mean:.3f} of {self.against}; at most {most}")

    def unknown(self, measured: Measured) -> str | None:
        if self.rate in measured.rates:
            return None
        return f"the evaluation {missing(f'the rate {self.rate!r}', measured.rates)}"
