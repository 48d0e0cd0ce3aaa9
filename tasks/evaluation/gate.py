"""The gate: whether a round's policy is promoted. A decision is a file with a manifest, made once a round.

promote: the next round starts from this policy. roll back: it starts from the policy that this round started from.
stop: this policy is promoted and the run ends.
A rule may also end the run by rolling back (`Decision.last`): a policy that breaks a rule is never promoted.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from storage.artifact import Artifact
from storage.files import canonical_json, publish_text
from storage.manifest import Manifest
from storage.stage import Outcome, Spec, finished, run_stage

DECISION = "decision.json"

Action = Literal["promote", "roll back", "stop"]
Breach = Literal["roll back", "stop"]  # what a broken rule does; `stop` rolls back and ends the run


class Reason(BaseModel):
    """The result of one rule of an automatic gate: the metric with its bound (`says`), and whether the rule holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    holds: bool
    says: str
    broken: Breach


class Decision(BaseModel):
    """The decision on one round's policy: who made it (`none`: no gate; `policy`: rules; `human`) and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action
    by: str
    note: str = ""
    last: bool = False  # rolled back, and the run ends
    reasons: tuple[Reason, ...] = ()


class _NoSettings(BaseModel):
    """The gate's settings are not part of the key: a decision stands when the gate is changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GateSpec(Spec):
    """A decision on a policy and its evaluation. `publish_decision` makes it; the stage is not run."""

    stage: ClassVar[str] = "gate"
    version: ClassVar[int] = 1

    settings: _NoSettings = _NoSettings()
    policy: Artifact  # the policy that the round ends with
    evaluation: Artifact


def read_decision(spec: GateSpec) -> Decision | None:
    """The decision on this policy and evaluation; None when there is none yet."""
    if finished(spec) is None:
        return None
    return Decision.model_validate_json((spec.folder / DECISION).read_text(encoding="utf-8"))


def publish_decision(spec: GateSpec, decision: Decision) -> Manifest:
    """Publish `decision`, unless there is one already."""

    def body() -> Outcome:
        path = spec.folder / DECISION
        publish_text(path, canonical_json(decision.model_dump(mode="json")) + "\n")
        return Outcome(paths=[path], summary={"action": decision.action, "by": decision.by})

    return run_stage(spec, body)
