"""Digests lead from a stage back to its makers; what was lost, altered or came from outside is told apart."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.errors import UserError
from storage.lineage import Input, find, flat, open_run, order, trace


def links(inputs: list[Input]) -> dict[str, str | None]:
    return {name: found.stage or found.path for found in inputs for name in found.names}


def test_every_input_is_led_back_to_its_maker_or_to_its_path(make_run: Any) -> None:
    made = make_run("one")
    run = open_run(made.root)
    assert list(run.stages) == [
        "prompts",
        *(
            f"round-{n:02d}/{s}"
            for n in (1, 2)
            for s in ("generate", "label", "train", "evaluate/responses", "evaluate")
        ),
    ]
    assert links(run.inputs("round-02/train")) == {
        "policy": "round-01/train",
        "reference": "round-01/train",
        "preferences": "round-02/label",
    }
    assert [found.names for found in run.inputs("round-02/train")] == [("policy", "reference"), ("preferences",)]
    assert links(run.inputs("round-01/train"))["policy"] == str(made.initial)
    label = {found.names: found for found in run.inputs("round-02/label")}
    assert label[("annotator:one",)] == Input(("annotator:one",), "1" * 64, "outside", path="models/one")
    prompts = {found.names[0]: found for found in run.inputs("prompts")}
    assert (prompts["prompts"].kind, prompts["prompts"].path) == ("outside", str(made.prompt_file))
    assert prompts["policy"].path == str(made.initial)  # its own spec names none, another stage's does
    assert (prompts["context"].kind, prompts["context"].digest) == ("value", "256:64")
    evaluate = {found.names[0]: found for found in run.inputs("round-02/evaluate")}
    assert (evaluate["initial"].kind, evaluate["initial"].path) == ("outside", str(made.initial))


def test_trace_reaches_all_that_stands_behind_and_nothing_else(make_run: Any) -> None:
    run = open_run(make_run("one").root)
    lineage = trace(run, ["round-02/label"])
    assert set(lineage.inputs) == {
        "round-02/label",
        "round-02/generate",
        "prompts",
        "round-01/train",
        "round-01/label",
        "round-01/generate",
    }
    assert lineage.breaks == []


def test_a_moved_run_is_whole(make_run: Any, tmp_path: Path) -> None:
    made = make_run("one")
    shutil.move(made.root, tmp_path / "elsewhere")
    assert trace(open_run(tmp_path / "elsewhere"), ["round-02/evaluate"]).breaks == []


def test_harmed_files_are_named_wherever_they_lie_behind(make_run: Any) -> None:
    root = make_run("one").root
    (root / "round-01/label/preferences.parquet").write_bytes(b"cut")
    (root / "round-01/train/policy/model.safetensors").unlink()
    (root / "round-02/evaluate/metrics.json").write_text("not behind the label stage")
    breaks = trace(open_run(root), ["round-02/label"]).breaks
    assert [stage for stage, _ in breaks] == ["round-01/train", "round-01/label"]
    assert breaks[0][1] == "round-01/train/policy/model.safetensors is missing"
    assert breaks[1][1].startswith("round-01/label/preferences.parquet has 3 bytes")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("removed", "round-02/train read preferences .* from round-02/label/preferences.parquet, where no finished"),
        ("made again", "round-02/train read preferences .* from round-02/label, which now has other content"),
        ("altered", "round-02/train read preferences .* from round-02/label, and .*manifest.json was altered"),
        ("no spec", "round-02/train read preferences .*, and no stage of this run has that content"),
    ],
)
def test_an_input_whose_maker_is_gone_is_lost_not_outside(make_run: Any, harm: str, said: str) -> None:
    made = make_run("one")
    label = made.root / "round-02/label"
    if harm == "removed":
        shutil.rmtree(label)
    elif harm == "altered":
        text = (label / "manifest.json").read_text()
        (label / "manifest.json").write_text(text.replace('"seed":0', '"seed":1'))
    else:
        (label / "manifest.json").unlink()
        path = label / "preferences.parquet"
        made.publish(
            "round-02/label", "label", 2, {}, {}, lambda folder: [path.write_text("other") and path], prompts=None
        )
    if harm == "no spec":
        (made.root / "round-02/train/spec.yaml").unlink()
    lineage = trace(open_run(made.root), ["round-02/train"])
    assert [stage for stage, _ in lineage.breaks] == ["round-02/train"]
    assert re.search(said, lineage.breaks[0][1]), lineage.breaks


def test_a_path_in_the_run_folder_that_no_stage_makes_is_outside(make_run: Any) -> None:
    made = make_run("one", rounds=1)
    made.publish(
        "round-02/train", "train", 2, {"policy": "2" * 64}, {}, lambda folder: [], policy=made.root / "my-policy"
    )
    lineage = trace(open_run(made.root), ["round-02/train"])
    assert [found.kind for found in lineage.inputs["round-02/train"]] == ["outside"]
    assert lineage.breaks == []


def test_a_spec_of_other_work_is_not_believed(make_run: Any) -> None:
    made = make_run("one")
    path = made.root / "round-01/train/spec.yaml"
    spec = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(spec | {"policy": "elsewhere"}))
    assert links(open_run(made.root).inputs("round-01/train"))["policy"] == "elsewhere"
    path.write_text(yaml.safe_dump(spec | {"policy": "elsewhere", "inputs": {"policy": "3" * 64}}))
    assert links(open_run(made.root).inputs("round-01/train"))["policy"] == str(made.initial)


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
def test_find_takes_files_stages_rounds_links_and_runs(make_run: Any, path: str, asked: list[str]) -> None:
    root = make_run("one").root
    (root / "link").symlink_to("round-02/train/policy")
    run, names = find(root / path)
    assert (run.root, names) == (root, asked)


def test_a_round_without_an_evaluation_ends_in_its_policy(make_run: Any) -> None:
    root = make_run("one").root
    shutil.rmtree(root / "round-02/evaluate")
    assert find(root / "round-02")[1] == ["round-02/train"]


def test_find_refuses_what_no_stage_holds(make_run: Any, tmp_path: Path) -> None:
    made = make_run("one")
    (made.root / "round-03/generate").mkdir(parents=True)
    (tmp_path / "manifest.json").write_text("{}")  # somebody else's, above the run folder
    for path, what in (
        (made.root / "round-09", "no such file or folder"),
        (made.initial / "model.bin", "cannot"),
        (made.root / "round-03", "no finished stage is in this folder"),
        (made.root / "config.yaml", "no finished stage is in this folder"),
    ):
        if what == "cannot":
            (tmp_path / "manifest.json").unlink()
            what = "no finished stage holds this"
        with pytest.raises(UserError, match=what):
            find(path)


def test_stages_are_ordered_as_they_are_made() -> None:
    made = ["prompts", "round-00/evaluate/responses", "round-00/evaluate", "round-02/prompts", "round-02/generate"]
    made += ["round-02/label", "round-02/train", "round-02/evaluate/judgements", "round-02/other", "round-10/prompts"]
    mixed = [*made[5:], *made[:5]]
    assert sorted(mixed, key=order) == made


def test_flat_names_leaves_by_dotted_keys() -> None:
    value = {"a": {"b": 1, "c": [{"d": 2}]}, "e": {}}
    assert dict(flat(value)) == {"a.b": 1, "a.c": [{"d": 2}], "e": {}}
    assert dict(flat(value, lists=True)) == {"a.b": 1, "a.c.0.d": 2, "e": {}}
