"""Artifacts: a path with the digest of its content and the stage that made it."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from storage.artifact import UNKNOWN, Artifact, artifacts, stage_name
from storage.errors import UserError
from storage.files import sha256_file
from storage.manifest import BrokenManifest, folder_digest, read_manifest
from storage.stage import run_stage
from tests.storage.count_stage import Body, CountSpec
from tests.storage.small_run import MakeRun, write_text


class Reader(BaseModel):
    one: Artifact
    named: dict[str, Artifact] = {}
    listed: list[Artifact] = []


def test_a_path_inside_an_artifact_keeps_digest_and_maker() -> None:
    stage = Artifact(path=Path("runs/a/round-01/train"), digest="d", maker="round-01/train")
    file = stage / "policy" / "model.safetensors"
    assert file == Artifact(
        path=Path("runs/a/round-01/train/policy/model.safetensors"), digest="d", maker="round-01/train"
    )


@pytest.mark.parametrize("inside", ["", "policy", "policy/model.safetensors", "metrics.jsonl"])
def test_the_stage_above_a_path_is_found(make_run: MakeRun, inside: str) -> None:
    folder = make_run("one").root / "round-02/train"
    artifact = Artifact.of(folder / inside)
    assert (artifact.path, artifact.maker) == (folder / inside, "round-02/train")
    assert artifact.digest == read_manifest(folder).content


def test_a_stage_inside_another_stage_is_the_maker_of_its_files(make_run: MakeRun) -> None:
    evaluation = make_run("one").root / "round-01/evaluate"
    assert Artifact.of(evaluation / "responses").maker == "round-01/evaluate/responses"
    assert Artifact.of(evaluation / "metrics.json").maker == "round-01/evaluate"


def test_files_and_folders_from_outside_have_the_digest_of_their_content(tmp_path: Path) -> None:
    (file,) = write_text(tmp_path / "policy" / "weights", "w")
    assert Artifact.of(file) == Artifact(path=file, digest=sha256_file(file))
    before = Artifact.of(file.parent)
    assert before == Artifact(path=file.parent, digest=folder_digest(file.parent))
    file.write_text("other")
    assert Artifact.of(file.parent).digest != before.digest


def test_a_missing_path_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder") as raised:
        Artifact.of(tmp_path / "nothing")
    assert raised.value.where == str(tmp_path / "nothing")
    assert raised.value.remedy


def test_a_plain_path_given_for_an_artifact_is_looked_up(tmp_path: Path) -> None:
    (file,) = write_text(tmp_path / "a", "a")
    artifact = Artifact.of(file)
    for path in (file, str(file), {"path": str(file), "digest": artifact.digest}):
        assert Reader.model_validate({"one": path}).one == artifact
    reader = Reader.model_validate({"one": file, "named": {"x": file}, "listed": [file]})
    assert (reader.named, reader.listed) == ({"x": artifact}, [artifact])
    with pytest.raises(UserError, match="no such file or folder"):
        Reader.model_validate({"one": tmp_path / "nothing"})


def test_a_planned_stage_needs_no_files() -> None:
    planned = Artifact.planned(Path("runs/a/round-03/evaluate/responses"))
    assert (planned.digest, planned.maker) == (UNKNOWN, "round-03/evaluate/responses")
    assert (planned / "a.parquet").digest == UNKNOWN


def test_manifest_gives_the_stage_with_its_files_checked(spec: CountSpec, body: Body) -> None:
    manifest = run_stage(spec, body)
    artifact = Artifact.of_stage(spec.folder)
    assert artifact == Artifact.of_stage(spec.folder, manifest)
    assert artifact.manifest() == manifest
    (spec.folder / "numbers.txt").unlink()
    assert Artifact.of_stage(spec.folder) == artifact  # only the manifest is read
    with pytest.raises(BrokenManifest, match=r"numbers\.txt is missing"):
        artifact.manifest()


def test_a_stage_that_was_made_again_is_refused(make_run: MakeRun) -> None:
    made = make_run("one")
    before = Artifact.of(made.root / "round-01/label")
    before.manifest()
    for name in ("manifest.json", "preferences.parquet"):
        (made.root / "round-01/label" / name).unlink()
    made.publish("round-01/label", "label", 1, {}, lambda folder: write_text(folder / "other.txt", "other"))
    with pytest.raises(UserError, match=f"made again: .* expected {before.digest[:12]}") as raised:
        before.manifest()
    assert raised.value.where == str(before.path)


def test_a_damaged_manifest_is_refused(make_run: MakeRun) -> None:
    folder = make_run("one").root / "round-01/label"
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(BrokenManifest, match="cannot be read as a manifest"):
        Artifact.of(folder / "preferences.parquet")


def test_artifacts_are_frozen_and_have_no_other_fields() -> None:
    artifact = Artifact(path=Path("a"), digest="d")
    with pytest.raises(ValidationError):
        artifact.digest = "e"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Artifact.model_validate({"path": "a", "digest": "d", "size": 1})


def test_stages_are_named_from_their_run() -> None:
    assert stage_name(Path("/a/runs/mine/round-01/evaluate/responses")) == "round-01/evaluate/responses"
    assert stage_name(Path("runs/mine/prompts")) == "prompts"


def test_artifacts_in_a_field_are_named_by_key_or_position() -> None:
    one, other = Artifact(path=Path("a"), digest="1"), Artifact(path=Path("b"), digest="2")
    assert artifacts("x", one) == {"x": one}
    assert artifacts("x", {"a": one, 7: other}) == {"x:a": one, "x:7": other}
    assert artifacts("x", [one, other]) == {"x:0": one, "x:1": other}
    assert artifacts("x", None) == artifacts("x", "text") == artifacts("x", {"a": 1}) == {}
