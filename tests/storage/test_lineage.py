"""Inputs are traced to the stages that made them, as manifests record it; lost, altered and outside ones differ."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from storage.artifact import Artifact
from storage.errors import UserError
from storage.lineage import Input, StageOrder, find, flat, open_run, place, trace
from storage.manifest import Manifest, read_manifest
from tests.storage.small_run import MakeRun, SmallRun, write_text


def links(inputs: list[Input]) -> dict[str, str | None]:
    return {name: read.stage or read.path for read in inputs for name in read.names}


def test_every_input_is_traced_to_its_maker_or_its_path(make_run: MakeRun) -> None:
    made = make_run("one")
    run = open_run(made.root)
    stages = ("generate", "label", "train", "evaluate/responses", "evaluate")
    assert list(run.stages) == ["prompts", *(f"round-{n:02d}/{stage}" for n in (1, 2) for stage in stages)]
    assert links(run.inputs("round-02/train")) == {
        "policy": "round-01/train",
        "reference": "round-01/train",
        "preferences": "round-02/label",
    }
    assert [read.names for read in run.inputs("round-02/train")] == [("policy", "reference"), ("preferences",)]
    assert links(run.inputs("round-01/train"))["policy"] == str(made.initial.path)
    label = {read.names: read for read in run.inputs("round-02/label")}
    name = "annotator_files:one"
    assert label[(name,)] == Input((name,), "1" * 64, "outside", path="models/one")
    prompts = {read.names[0]: read for read in run.inputs("prompts")}
    assert (prompts["prompts"].kind, prompts["prompts"].path) == ("outside", str(made.prompt_file.path))
    assert (prompts["heldout"].kind, prompts["heldout"].digest) == ("value", "org/set:test")


def test_trace_reaches_what_a_stage_was_made_from_and_nothing_else(make_run: MakeRun) -> None:
    lineage = trace(open_run(make_run("one").root), ["round-02/label"])
    first = {f"round-01/{stage}" for stage in ("train", "label", "generate")}
    assert set(lineage.inputs) == {"prompts", *first, "round-02/generate", "round-02/label"}
    assert lineage.breaks == []


def test_a_moved_run_is_whole(make_run: MakeRun, tmp_path: Path) -> None:
    shutil.move(make_run("one").root, tmp_path / "elsewhere")
    assert trace(open_run(tmp_path / "elsewhere"), ["round-02/evaluate"]).breaks == []


def test_a_policy_of_another_run_comes_from_outside(make_run: MakeRun) -> None:
    """It was made by a stage round-01/train too, but not by that of this run."""
    one, other = make_run("one", rounds=1), make_run("other", rate=0.25, rounds=1)
    policy = Artifact.of(other.root / "round-01/train/policy")
    one.round(2, policy)
    run = open_run(one.root)
    assert read_manifest(one.root / "round-02/generate").made_by == {"prompts": "prompts"}
    (read,) = (read for read in run.inputs("round-02/generate") if "policy" in read.names)
    assert (read.kind, read.path) == ("outside", str(policy.path))
    assert trace(run, ["round-02/evaluate"]).breaks == []


def test_broken_files_are_named_wherever_they_lie(make_run: MakeRun) -> None:
    root = make_run("one").root
    (root / "round-01/label/preferences.parquet").write_bytes(b"cut")
    (root / "round-01/train/policy/model.safetensors").unlink()
    (root / "round-02/evaluate/metrics.json").write_text("the label stage was not made from it")
    breaks = trace(open_run(root), ["round-02/label"]).breaks
    assert [stage for stage, _ in breaks] == ["round-01/train", "round-01/label"]
    assert breaks[0][1] == "round-01/train/policy/model.safetensors is missing"
    assert breaks[1][1].startswith("round-01/label/preferences.parquet has 3 bytes")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("removed", "round-02/train read preferences .* from round-02/label, and no finished stage is there now"),
        ("made again", "round-02/train read preferences .* from round-02/label, which was made again since"),
        ("altered", "round-02/train read preferences .* from round-02/label, and .*manifest.json was altered"),
        ("no spec", "round-02/train read preferences .* from round-02/label, which was made again since"),
    ],
)
def test_an_input_whose_maker_is_gone_is_lost_not_outside(make_run: MakeRun, damage: str, problem: str) -> None:
    made = make_run("one")
    label = made.root / "round-02/label"
    if damage == "removed":
        shutil.rmtree(label)
    elif damage == "altered":
        text = (label / "manifest.json").read_text()
        (label / "manifest.json").write_text(text.replace('"seed":0', '"seed":1'))
    else:
        (label / "manifest.json").unlink()
        made.publish("round-02/label", "label", 2, {}, lambda folder: write_text(folder / "other.txt", "other"))
    if damage == "no spec":
        (made.root / "round-02/train/spec.yaml").unlink()
    lineage = trace(open_run(made.root), ["round-02/train"])
    assert [stage for stage, _ in lineage.breaks] == ["round-02/train"]
    assert re.search(problem, lineage.breaks[0][1]), lineage.breaks


def test_a_path_in_the_run_folder_that_no_stage_made_is_outside(make_run: MakeRun) -> None:
    made = make_run("one", rounds=1)
    policy = Artifact(path=made.root / "my-policy", digest="2" * 64)
    made.publish(
        "round-02/train", "train", 2, {}, lambda folder: write_text(folder / "log.txt", "trained"), policy=policy
    )
    lineage = trace(open_run(made.root), ["round-02/train"])
    assert [read.kind for read in lineage.inputs["round-02/train"]] == ["outside"]
    assert lineage.breaks == []


def test_the_spec_of_other_work_is_ignored(make_run: MakeRun) -> None:
    made = make_run("one")
    path = made.root / "round-01/train/spec.yaml"
    spec = yaml.safe_load(path.read_text())
    elsewhere = spec["policy"] | {"path": "elsewhere"}
    path.write_text(yaml.safe_dump(spec | {"policy": elsewhere}))
    assert links(open_run(made.root).inputs("round-01/train"))["policy"] == "elsewhere"
    path.write_text(yaml.safe_dump(spec | {"policy": elsewhere | {"digest": "3" * 64}}))
    assert links(open_run(made.root).inputs("round-01/train"))["policy"] == str(made.initial.path)


def test_manifests_of_early_versions_are_joined_by_digests(make_run: MakeRun) -> None:
    """They do not record who made their inputs, and their spec.yaml has no artifacts."""
    made = make_run("one")
    for path in made.root.rglob("manifest.json"):
        manifest = read_manifest(path.parent)
        Manifest(**(manifest.model_dump() | {"made_by": {}, "digest": ""})).sealed().write(path.parent)
        (path.parent / "spec.yaml").write_text(yaml.safe_dump({"inputs": manifest.inputs, "policy": "somewhere"}))
    run = open_run(made.root)
    assert links(run.inputs("round-02/train")) == {
        "policy": "round-01/train",
        "reference": "round-01/train",
        "preferences": "round-02/label",
    }
    assert links(run.inputs("round-01/train"))["policy"] is None
    assert list(run.stages) == list(open_run(make_run("other").root).stages)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("round-02/train/policy/model.safetensors", ["round-02/train"]),
        ("round-02/train", ["round-02/train"]),
        ("round-02/evaluate/responses", ["round-02/evaluate/responses"]),
        ("round-02/evaluate/metrics.json", ["round-02/evaluate"]),
        ("round-02", ["round-02/evaluate"]),
        ("link", ["round-02/train"]),
        (".", ["round-01/evaluate", "round-02/evaluate"]),
    ],
)
def test_find_takes_files_stages_rounds_links_and_runs(make_run: MakeRun, path: str, asked: list[str]) -> None:
    root = make_run("one").root
    (root / "link").symlink_to("round-02/train/policy")
    run, names = find(root / path)
    assert (run.root, names) == (root, asked)


def test_a_round_without_an_evaluation_ends_in_its_policy(make_run: MakeRun) -> None:
    root = make_run("one").root
    shutil.rmtree(root / "round-02/evaluate")
    assert find(root / "round-02")[1] == ["round-02/train"]


def test_find_refuses_a_path_that_belongs_to_no_stage(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run("one")
    (made.root / "round-03/generate").mkdir(parents=True)
    (tmp_path / "manifest.json").write_text("{}")  # of another program, above the run folder
    for path, problem in (
        (made.root / "round-09", "no such file or folder"),
        (made.root / "round-03", "this folder has no finished stage"),
        (made.root / "config.yaml", "this folder has no finished stage"),
    ):
        with pytest.raises(UserError, match=problem):
            find(path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UserError, match="this belongs to no finished stage"):
        find(made.initial.path / "model.bin")


def chain(made: SmallRun, number: int, *stages: str) -> None:
    """Stages of a round, each made from the one before."""
    read: dict[str, Artifact | dict[str, Artifact]] = {}
    for stage in stages:
        name = f"round-{number:02d}/{stage}"
        text = name  # so that no two stages have the same content
        artifact = made.publish(name, stage, number, {}, lambda folder, t=text: write_text(folder / "a", t), **read)  # type: ignore[misc]
        read = {"policy": artifact}


def test_stages_are_sorted_by_what_they_read_not_by_what_they_are_called(make_run: MakeRun) -> None:
    made = make_run("one", rounds=0)
    chain(made, 10, "z", "y")
    chain(made, 2, "new", "evaluate/b", "a", "evaluate")
    names = ["prompts", "round-02/new", "round-02/evaluate/b", "round-02/a", "round-02/evaluate"]
    run = open_run(made.root)
    assert list(run.stages) == [*names, "round-10/z", "round-10/y"]
    assert sorted(sorted(run.stages), key=run.order) == list(run.stages)
    assert [run.order(name)[:2] for name in names] == [(-1, 0), (2, 0), (2, 1), (2, 2), (2, 3)]


def test_a_stage_keeps_its_place_where_a_round_lacks_the_ones_before(make_run: MakeRun) -> None:
    made = make_run("one")
    shutil.rmtree(made.root / "round-02/label")
    shutil.rmtree(made.root / "round-01/generate")
    run = open_run(made.root)
    assert [name for name in run.stages if name.startswith("round-02")] == [
        f"round-02/{stage}" for stage in ("generate", "train", "evaluate/responses", "evaluate")
    ]
    assert run.order("round-01/label")[:2] == (1, 1)


def test_stages_that_do_not_depend_on_each_other_are_sorted_by_start_then_name() -> None:
    order = StageOrder(
        {"b": frozenset(), "a": frozenset(), "c": frozenset({"a"})}, {"round-01/b": "1", "round-01/a": "2"}
    )
    assert sorted(["round-01/c", "round-01/a", "round-01/b"], key=order) == ["round-01/b", "round-01/a", "round-01/c"]
    assert sorted(["round-02/b", "round-02/a"], key=order) == ["round-02/a", "round-02/b"]


def test_the_order_of_two_runs_follows_both() -> None:
    one = StageOrder({"x": frozenset(), "w": frozenset({"x"})}, {})
    other = StageOrder({"w": frozenset(), "v": frozenset({"w"}), "u": frozenset({"v"})}, {})
    assert sorted(("round-01/u", "round-01/v", "round-01/w", "round-01/x"), key=one | other) == [
        "round-01/x",
        "round-01/w",
        "round-01/v",
        "round-01/u",
    ]


def test_a_cycle_of_makers_ends() -> None:
    order = StageOrder({"a": frozenset({"b"}), "b": frozenset({"a"})}, {})
    assert sorted(["round-01/b", "round-01/a"], key=order)


def test_place_splits_a_stage_name() -> None:
    assert place("round-12/evaluate/responses") == (12, "evaluate/responses")
    assert place("prompts") == (-1, "prompts")
    assert place("round-12") == (-1, "round-12")


def test_flat_names_leaves_by_dotted_keys() -> None:
    value = {"a": {"b": 1, "c": [{"d": 2}]}, "e": {}}
    assert dict(flat(value)) == {"a.b": 1, "a.c": [{"d": 2}], "e": {}}
    assert dict(flat(value, lists=True)) == {"a.b": 1, "a.c.0.d": 2, "e": {}}
