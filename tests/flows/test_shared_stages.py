"""Compared runs share finished stages by hard links: only what manifests name, and no file that is written later."""

import pytest

from conf.compose import compose_config
from flows.compare import share, shared_stages
from storage.files import parse_yaml
from storage.manifest import MANIFEST, read_manifest
from tests.storage.conftest import make_run
from tests.storage.small_run import MakeRun

__all__ = ["make_run"]
STAGES = ["prompts", "round-01/generate", "round-01/label", "round-01/evaluate"]


def test_files_of_manifests_are_links_and_nothing_else_is_shared(make_run: MakeRun) -> None:
    source = make_run("one", rounds=1).root
    target = source.with_name("other")
    beside = source / "round-01/label/people/votes.jsonl"
    beside.parent.mkdir()
    beside.write_text("a vote\n")
    share(source, target, STAGES)
    for stage in [*STAGES, "round-01/evaluate/responses"]:
        manifest = read_manifest(target / stage)
        assert manifest == read_manifest(source / stage, check_files=False)
        for entry in manifest.files:
            assert (target / stage / entry.path).samefile(source / stage / entry.path)
        assert not (target / stage / "spec.yaml").samefile(source / stage / "spec.yaml")
    assert not (target / "round-01/label/people").exists()
    assert not (target / "round-01/train").exists()


def test_specs_name_the_run_that_they_lie_in(make_run: MakeRun) -> None:
    source = make_run("one", rounds=1).root
    target = source.with_name("other")
    text = (source / "round-01/label/spec.yaml").read_text()
    share(source, target, STAGES)
    spec = parse_yaml((target / "round-01/label/spec.yaml").read_text())
    assert spec["folder"] == str(target / "round-01/label")
    assert spec["responses"]["path"] == str(target / "round-01/generate")
    assert spec["annotator_files"]["one"]["path"] == "models/one"
    (target / "round-01/label/spec.yaml").write_text("written in place")
    assert (source / "round-01/label/spec.yaml").read_text() == text


def test_a_stage_that_is_finished_already_or_damaged_is_not_shared(make_run: MakeRun) -> None:
    source = make_run("one", rounds=1).root
    target = source.with_name("other")
    (source / "round-01/generate" / MANIFEST).unlink()
    (source / "round-01/label" / MANIFEST).write_text("{}")
    (source / "round-01/evaluate/metrics.json").unlink()
    (target / "prompts").mkdir(parents=True)
    share(source, target, STAGES)
    share(source, source, STAGES)
    assert sorted(path.name for path in target.rglob("*")) == ["prompts", "round-01"]


@pytest.mark.parametrize(
    ("word", "shared"),
    [
        ("objective=dpo", ["prompts", "round-00/evaluate", "round-01/prompts", "round-01/generate", "round-01/label"]),
        ("sampling.temperature=0.5", ["prompts"]),
        ("policy=elsewhere", []),
        ("prompts.path=other.jsonl", []),
    ],
)
def test_stages_are_shared_up_to_the_first_difference(word: str, shared: list[str]) -> None:
    one, other = (compose_config(["run=demo", "evaluation=plain", "panel=rules", *more]) for more in ([], [word]))
    found = shared_stages(one, other)
    assert [folder for folder in found if not folder.startswith("round-00")] == [
        folder for folder in shared if not folder.startswith("round-00")
    ]
    assert any(folder.startswith("round-00") for folder in found) == any(name.startswith("round-00") for name in shared)
