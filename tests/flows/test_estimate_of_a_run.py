"""dry_run=true for every kind of run: what the probe leaves out, and the arithmetic of the projection."""

import json
from pathlib import Path

import pytest

from conf.compose import compose_config
from conf.schema import RunConfig
from flows.estimate import Estimate, Line, estimate, project
from flows.plan import Plan
from flows.probe import Probe
from flows.show.estimate import duration, size
from flows.train_words import train_words
from storage.artifact import Artifact
from storage.manifest import FileEntry, Manifest
from storage.schemas import SCORES, VOTES, write_parquet

WORDS = [
    "engine=transformers", "sampling.max_tokens=8", "sampling.responses=2", "preferences.drop_truncated=false",
    "training=small", "training.device=cpu", "evaluation=plain",
]  # fmt: skip


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(60)))
    return path


def line(found: Estimate, stage: str) -> Line:
    (only,) = [each for each in found.lines if each.stage == stage]
    return only


def test_a_panel_of_people_alone_is_probed_with_a_rule(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    config = compose_config(
        [
            *WORDS, "name=people", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", f"prompts={prompts}",
            "panel=none", "+panel.annotators.people={kind: human, sample: 8}", "rounds=2",
            "prompts.heldout=0.3", "dry_run=true",
        ]
    )  # fmt: skip
    found = estimate(config)
    stages = [each.stage for each in found.lines]
    assert stages[:2] == ["engine's start", "round 0 (initial policy)"]
    assert {"generate", "label", "train", "evaluate"} < set(stages)
    assert found.usages == []
    assert found.peak > 10**8
    assert "people (people) were not asked" in " ".join(found.notes)
    assert "the shorter reply wins" in " ".join(found.notes)
    for each in found.lines[2:]:
        assert each.round is not None
        if each.stage != "evaluate/judgements":
            assert each.run == pytest.approx(2 * each.round)
    weights = sum(file.stat().st_size for file in tiny_policy.glob("*.safetensors"))
    assert line(found, "train").round_bytes > weights
    assert not (tmp_path / "runs/people/round-01/label").exists()


def test_offline_training_is_probed_too(tiny_policy: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {i}", "chosen": f"{i}", "rejected": f"{i} {i}"} for i in range(50)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = train_words(
        [*WORDS, "name=offline", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", f"data={pairs}", "objective=dpo"]
    )
    found = estimate(compose_config([*words, "dry_run=true"]))
    assert "label" not in [each.stage for each in found.lines]
    assert "prompts" in line(found, "train").basis
    assert found.round_seconds > 0


def manifest(stage: str, seconds: float, sizes: dict[str, int], summary: dict[str, object] | None = None) -> Manifest:
    files = [FileEntry(path=path, bytes=count, sha256="0") for path, count in sizes.items()]
    return Manifest(
        stage=stage, round=1, key="k", inputs={}, settings={}, files=files, summary=summary or {}, stage_version=1,
        seed=0, started="", seconds=seconds, versions={},
    )  # fmt: skip


def test_the_projection_by_hand(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    config: RunConfig = compose_config(
        [
            *WORDS, "name=p", f"runs={tmp_path}", f"policy={tiny_policy}", f"prompts={prompts}", "panel=rules",
            "rounds=3", "training.epochs=2", "evaluation.judges={brief: {kind: rule, shorter: true}}",
        ]
    )  # fmt: skip
    (tmp_path / "p").mkdir()
    step = {"loss": 0.0, "margin": 0.0, "accuracy": 0.0, "h_chosen": 0.0, "h_rejected": 0.0}
    update: dict[str, object] = {
        "norm": 1.0,
        "relative": 0.1,
        "share": None,
        "dtype": "float32",
        "share_in_dtype": None,
    }
    trained: dict[str, object] = {
        "first": step,
        "last": step,
        "update": update,
        "seconds": {"prepare": 1, "optimize": 4, "publish": 2},
    }
    probe = Probe(prompts=32, of_prompts=320, held_out=16, of_held_out=48, people=(), stand_in=False)
    probe.folder = tmp_path / "probe"
    probe.start = {
        "evaluate/responses": manifest("generate", 9, {"a.parquet": 10}),
        "evaluate": manifest("evaluate", 2, {"metrics.json": 5}),
    }
    probe.round = {
        "generate": manifest("generate", 5, {"a.parquet": 100}),
        "train": manifest("train", 8, {"policy/model.safetensors": 1000, "reference.parquet": 7}, trained),
        "evaluate/responses": manifest("generate", 3, {"a.parquet": 10}),
        "evaluate/judgements": manifest("judge", 1, {"votes.parquet": 10}),
    }
    judged = probe.folder / "round-01/evaluate/judgements"
    judged.mkdir(parents=True)
    write_parquet(judged / "votes.parquet", VOTES.empty_table())
    write_parquet(judged / "scores.parquet", SCORES.empty_table())
    found = project(Plan(config, Artifact.of(tiny_policy)), probe)
    assert line(found, "engine's start").run == 6  # 9 - 3
    assert line(found, "round 0 (initial policy)").run == 15  # (9 + 2 - 6) x 48 / 16
    assert (line(found, "generate").round, line(found, "generate").run) == (50, 150)
    assert line(found, "train").round == 93  # 8 - 1 - 4 once, (1 + 4 x 2 epochs) x 10
    assert line(found, "train").round_bytes == 1070
    judging = line(found, "evaluate/judgements")
    assert (judging.round, judging.run) == (3, 15)  # 1 + 2 x 2: later rounds have two rivals
    assert found.run_seconds == 6 + 15 + 150 + 279 + 27 + 15


def test_how_amounts_are_written() -> None:
    assert [duration(each) for each in (None, 3.14, 90, 7200)] == ["-", "3.1 s", "1.5 min", "2.0 h"]
    assert [size(each) for each in (0, 1500, 2_500_000, 3 * 10**9)] == ["-", "2 kB", "2.5 MB", "3.0 GB"]
