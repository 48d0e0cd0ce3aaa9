"""Records of rounds and summaries of panels, valid and small; tests change what they are about."""

from typing import Any

from tasks.evaluation.gate import Action
from tasks.evaluation.record import RoundRecord
from tasks.labeling.summary import AnnotatorStats, LabelSummary

INTERVAL = {"mean": 0.6, "low": 0.5, "high": 0.7, "n": 9}


def annotator(name: str, **changed: Any) -> AnnotatorStats:
    values: dict[str, Any] = {
        "annotator": name, "kind": "pairs", "a": 0, "b": 0, "tie": 0, "abstain": 0, "error": 0, "unanswered": 0,
        "faults": "{}", "agrees_with_panel": 0.5, "agrees_with_others": 0.5, "gold_votes": 0, "gold_accuracy": None,
        "first_share": None, "order_consistency": None, "longer_share": None, "triples": 0, "intransitive": 0,
        "seconds": None, "tokens": None, "cost": None,
    }  # fmt: skip
    return AnnotatorStats.model_validate(values | changed)


def label_summary(annotators: list[AnnotatorStats], **changed: Any) -> LabelSummary:
    values: dict[str, Any] = {
        "responses": 8, "comparisons": 4, "votes": {}, "pairs": 4, "dropped": {}, "mean_abs_target": 1.0,
        "annotators": [row.model_dump() for row in annotators], "agreement": [], "learnt": {},
    }  # fmt: skip
    return LabelSummary.model_validate(values | changed)


def round_record(
    number: int, *, base: int = 0, labels: LabelSummary | None = None, decision: Action | None = None, **figures: Any
) -> RoundRecord:
    """The record of a round whose evaluation has these figures."""
    metrics: dict[str, Any] = {
        "win_rate": {}, "rates": {}, "kl": {"mean": 0.0, "se": 0.1, "per_token": 0.1}, "tokens": 7.0, "words": 5.0,
        "finish_rate": 1.0, "unique_rate": 0.5, "replies": {}, "length": {}, "gap": {}, "categories": {},
        "calibration": None, "displacement": None, "excluded": {"votes": {}, "scores": {}},
    }  # fmt: skip
    return RoundRecord.model_validate(
        {
            "round": number, "base": base, "policy": "policy", "digest": "d", "responses": "r",
            "evaluation": "e", "pairs": None, "against": {}, "figures": metrics | figures,
            "labels": labels and labels.model_dump(), "seconds": {"train": 2.0, "label": 1.0}, "decision": decision,
        }
    )  # fmt: skip
