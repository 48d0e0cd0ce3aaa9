"""The policy that a round ends with: the trained policy itself, with momentum, or averaged over rounds.

    momentum   theta_t+1 = theta^_t+1 + strength * (theta^_t+1 - theta^_t)      accelerated preference optimisation,
               arXiv 2410.06293; theta^: trained policy, theta: the policy (and reference) of the next round
    merge      theta_t+1 = sum_i w_i theta^_i over the last rounds, w_i ~ (i + 1)^power    in the spirit of MWA,
               arXiv 2504.18580 (step weights; not checked against the paper's exact form)

The same stage moves the reference between rounds, from the previous reference and the policy: objectives/moving.py.

Weights are those of whole policies: adapters are merged when a policy is published.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.stage import Outcome, Progress, Spec, TaskName, run_stage, silent
from tasks.training.objectives.moving import Ema, TrustRegion


class _Update(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AsTrained(_Update):
    kind: Literal["none"] = "none"


class Momentum(_Update):
    kind: Literal["momentum"]
    strength: float = Field(0.3, gt=0, lt=1)  # alpha; our default, not taken from the paper


class Merge(_Update):
    kind: Literal["merge"]
    last: int = Field(3, ge=2)  # rounds, including the current one
    power: float = Field(1.0, ge=0)  # 0: equal weights; larger: later rounds weigh more


UpdateSettings = Annotated[AsTrained | Momentum | Merge, Field(discriminator="kind")]


class UpdateSpec(Spec):
    """Publish the round's policy (or reference) in `folder`/policy: a weighted sum of `trained` and `earlier`."""

    stage: ClassVar[str] = "update"
    version: ClassVar[int] = 2

    runs: ClassVar[str] = "tasks.training.update:run_update"
    task: ClassVar[TaskName] = "train"

    settings: Momentum | Merge | Ema | TrustRegion = Field(discriminator="kind")
    trained: Artifact  # this round's train/policy; for a reference, the policy that the round starts from
    # Momentum: the previous round's trained policy. Merge: the trained policies of earlier rounds, oldest first.
    # For a reference: the previous reference.
    earlier: list[Artifact]


def weights(settings: Momentum | Merge | Ema | TrustRegion, earlier: int) -> list[float]:
    """Weights of the `earlier` policies, oldest first, then of the trained policy. They sum to 1."""
    if isinstance(settings, Momentum):
        return [-settings.strength, 1 + settings.strength]
    if not isinstance(settings, Merge):
        return [1 - settings.rate, settings.rate]
    steps = [(i + 1) ** settings.power for i in range(earlier + 1)]
    return [step / sum(steps) for step in steps]


def run_update(spec: UpdateSpec, progress: Progress = silent) -> Manifest:
    """Publish the weighted sum. Raises UserError for policies of different architectures."""

    def body() -> Outcome:
        from tasks.modeling.merge import publish_sum

        folders = [policy.path for policy in (*spec.earlier, spec.trained)]
        shares = weights(spec.settings, len(spec.earlier))
        out = spec.folder / "policy"
        publish_sum(list(zip(folders, shares, strict=True)), spec.trained.path, out)
        return Outcome(paths=[out], summary={"weights": [round(share, 9) for share in shares]})

    return run_stage(spec, body)
