"""Records of rounds from the manifests of their stages."""

from collections.abc import Mapping, Sequence

from flows.plan import Plan
from storage.manifest import Manifest
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.record import RoundRecord
from tasks.labeling.summary import LabelSummary


def round_record(plan: Plan, number: int, chain: Sequence[int], manifests: Mapping[str, Manifest]) -> RoundRecord:
    """manifests: of the round's stages, by folder below the round, in the order in which they run."""
    policy = plan.folder(number, plan.config.policy_stage) / "policy" if number else plan.initial.path
    label = manifests.get("label") if number else None  # none in a round on pairs from a file
    return RoundRecord(
        round=number,
        base=chain[-1],
        policy=str(policy),
        digest=manifests[plan.config.policy_stage].content if number else plan.initial.digest,
        responses=manifests["evaluate/responses"].content,
        evaluation=manifests["evaluate"].content,
        pairs=manifests["evaluate/pairs"].content if "evaluate/pairs" in manifests else None,
        against={
            name: manifests[stage].content
            for name in plan.config.evaluation.against
            if (stage := f"against/{name}") in manifests
        },
        figures=Metrics.model_validate(manifests["evaluate"].summary),
        labels=LabelSummary.model_validate(label.summary) if label else None,
        seconds=_seconds(manifests),
        decision=None if number else "promote",
    )


def _seconds(manifests: Mapping[str, Manifest]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for stage, manifest in manifests.items():
        top = stage.partition("/")[0]
        seconds[top] = round(seconds.get(top, 0.0) + manifest.seconds, 3)
    return seconds
