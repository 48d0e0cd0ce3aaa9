"""The record of a round, and the gate's spec, from the manifests of the round's stages."""

import json
from pathlib import Path

from conf.compose import compose_config
from flows.gate import gate_spec
from flows.plan import Plan
from flows.record import round_record
from storage.artifact import Artifact
from storage.layout import RunLayout
from storage.manifest import FileEntry, Manifest

INITIAL = Artifact(path=Path("initial"), digest="initial")
METRICS = {
    "win_rate": {}, "rates": {}, "kl": {"mean": 0.0, "se": 0.0, "per_token": 0.0}, "tokens": 1.0, "words": 1.0,
    "finish_rate": 1.0, "unique_rate": 1.0, "replies": {}, "length": {}, "gap": {}, "categories": {},
    "calibration": None, "displacement": None, "excluded": {"votes": {}, "scores": {}},
}  # fmt: skip
LABELS = {
    "responses": 2, "comparisons": 1, "votes": {}, "pairs": 1, "dropped": {}, "mean_abs_target": 0.5,
    "annotators": [], "agreement": [], "learnt": {},
}  # fmt: skip


def manifest(stage: str, seconds: float = 1.0) -> Manifest:
    summary = {"evaluate": METRICS, "label": LABELS}.get(stage, {})
    return Manifest(
        stage=stage.rpartition("/")[2], round=1, key="k", inputs={}, settings={}, summary=summary,
        files=[FileEntry(path="file", bytes=1, sha256=stage)], stage_version=1, seed=0, started="", seconds=seconds,
        versions={},
    ).sealed()  # fmt: skip


def test_pairs_are_those_of_the_pairs_stage() -> None:
    """With a harness and MT-Bench, and without held-out pairs, no other stage's digest takes their place."""
    stages = ["evaluate/responses", "evaluate/dialogues", "evaluate/judgements", "evaluate/grades", "evaluate/harness"]
    without = {stage: manifest(stage) for stage in [*stages, "evaluate"]}
    plan = Plan(compose_config(["run=demo"]), INITIAL)
    assert round_record(plan, 0, [0], without).pairs is None
    pairs = manifest("evaluate/pairs")
    assert round_record(plan, 0, [0], without | {"evaluate/pairs": pairs}).pairs == pairs.content


def test_seconds_count_every_stage_of_the_round() -> None:
    stages = {
        "prompts": 1, "ask": 2, "drafts": 3, "generate": 4, "label": 5, "reference": 6, "mix": 7, "extra": 8,
        "train": 9, "update": 10, "evaluate/responses": 11, "evaluate/judgements": 12, "evaluate": 13,
    }  # fmt: skip
    manifests = {stage: manifest(stage, float(seconds)) for stage, seconds in stages.items()}
    record = round_record(Plan(compose_config(["run=demo", "update=momentum"]), INITIAL), 1, [0], manifests)
    top = {stage: float(seconds) for stage, seconds in stages.items() if not stage.startswith("evaluate")}
    assert record.seconds == top | {"evaluate": 36.0}
    assert record.digest == manifests["update"].content
    assert json.loads(record.model_dump_json())["decision"] is None


def test_the_gate_decides_on_the_policy_that_the_round_ends_with(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    for stage in ("train", "update", "evaluate"):
        layout.stage(1, stage).mkdir(parents=True)
        manifest(stage).write(layout.stage(1, stage))
    for word, stage in (("update=none", "train"), ("update=momentum", "update")):
        spec = gate_spec(layout, 1, compose_config(["run=demo", word]).policy_stage)
        assert spec.inputs == {"policy": manifest(stage).content, "evaluation": manifest("evaluate").content}
        assert spec.policy.path == layout.stage(1, stage) / "policy"
