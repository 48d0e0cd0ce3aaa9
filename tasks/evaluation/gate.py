"""The gate: whether a round's policy is promoted. A decision is a file with a manifest, made once a round.

promote: the next round starts from this policy.  roll back: it starts from the policy that this round started from.
stop: promote, and go no further round.
Rules may also roll back and go no further: a policy that breaks one is never promoted (`Decision.last`).
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from storage.artifact import Artifact
from storage.files import canonical_json, publish_text
from storage.manifest import Manifest
from storage.stage import Outcome, Spec, finished, run_stage

DECISION = "decision.json"

Action = Literal["promote", "roll back", "stop"]
Breach = Literal["roll back", "stop"]  # what a broken rule does; `stop`: roll back, and go no further round


class Reason(BaseModel):
    """What one rule of an automatic gate found: the figure, its bound, and whether it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    holds: bool
    says: str
    broken: Breach


class Decision(BaseModel):
    """What was decided on one round's policy, by whom (`none`: no gate was set; `policy`: rules) and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action
    by: str
    note: str = ""
    last: bool = False  # rolled back, and no round follows
    reasons: tuple[Reason, ...] = ()


class _NoSettings(BaseModel):
    """A decision stands whichever gate made it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GateSpec(Spec):
    """A decision on a policy and its evaluation. It is published by `publish_decision`, not run."""

    stage: ClassVar[str] = "gate"
    version: ClassVar[int] = 1

    settings: _NoSettings = _NoSettings()
    policy: Artifact  # the policy that the round ends with
    evaluation: Artifact


def read_decision(spec: GateSpec) -> Decision | None:
    """The decision on this very policy and evaluation; None when there is none yet."""
    if finished(spec) is None:
        return None
    return Decision.model_validate_json((spec.folder / DECISION).read_text(encoding="utf-8"))


def publish_decision(spec: GateSpec, decision: Decision) -> Manifest:
    """Record `decision`, unless one stands already."""

    def body() -> Outcome:
        path = spec.folder / DECISION
        publish_text(path, canonical_json(decision.model_dump(mode="json")) + "\n")
        return Outcome(paths=[path], summary={"action": decision.action, "by": decision.by})

    return run_stage(spec, body)
