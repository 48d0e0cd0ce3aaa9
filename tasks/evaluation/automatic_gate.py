"""The automatic gate (gate=policy): a round's policy is promoted when every rule holds, and rolled back otherwise."""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.evaluation.gate import Decision, Reason
from tasks.evaluation.gate_rules.base import GateRule, Measured, RoundMetrics
from tasks.evaluation.gate_rules.registry import AnyGateRule


class GateSettings(BaseModel):
    """What decides, after every round, whether its policy is promoted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["none", "human", "policy"] = "none"  # none: every policy is promoted; policy: when all `rules` hold
    rules: dict[str, AnyGateRule] = {}  # name -> {kind, bounds}; kinds: docs/report.md
    patience: int | None = Field(None, ge=1)  # end the run after this many rounds in a row without promotion
    # The names that rules may use; conf/gate/policy.yaml fills them in from the evaluation.
    judges: tuple[str, ...] = ()
    rates: tuple[str, ...] = ()  # as judges

    @model_validator(mode="after")
    def _kind_fits_rules(self) -> Self:
        if self.kind == "policy" and not self.rules:
            raise ValueError("there are no rules: every policy would be promoted; add one, or use gate=none")
        if self.kind != "policy" and (self.rules or self.patience is not None):
            raise ValueError(f"kind={self.kind} has neither rules nor patience; use gate=policy")
        return self

    def check_rules(self, *, tasks: Sequence[str]) -> None:
        """Raises ValueError for rules that the evaluation cannot answer. tasks: the lm-eval tasks of the run."""
        measured = Measured(judges=self.judges, rates=self.rates, tasks=tasks)
        needs = {name: rule.unknown(measured) for name, rule in self.rules.items()}
        if unknown := [f"gate.rules.{name}: {need}" for name, need in needs.items() if need is not None]:
            raise ValueError("; ".join(unknown))


def decide(rules: Mapping[str, GateRule], metrics: RoundMetrics, *, patience: int | None, rolled_back: int) -> Decision:
    """Promote when every rule holds; otherwise roll back, and end the run where a broken rule or patience requires it.

    rolled_back: how many rounds in a row, just before this one, were rolled back.
    """
    reasons = []
    for name, rule in rules.items():
        check = rule.check(metrics)
        reasons.append(Reason(rule=name, holds=check.holds, says=check.says, broken=rule.broken))
    broken = [reason for reason in reasons if not reason.holds]
    if not broken:
        return Decision(action="promote", by="policy", reasons=tuple(reasons))
    if patience is not None:
        count = rolled_back + 1
        sentence = f"{count} in a row without promotion; the run ends at {patience}"
        reasons.append(Reason(rule="patience", holds=count < patience, says=sentence, broken="stop"))
    last = any(reason.broken == "stop" for reason in reasons if not reason.holds)
    note = f"broken: {', '.join(reason.rule for reason in broken)}"
    return Decision(action="roll back", by="policy", note=note, last=last, reasons=tuple(reasons))
