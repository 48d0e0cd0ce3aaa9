"""A published folder is exactly what its manifest names; planted, swapped and linked files are found."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.files import canonical_json, publish_folder, publish_text
from storage.lineage import find, trace
from storage.manifest import MANIFEST, BrokenManifest, FileEntry, ForeignFiles, Manifest, read_manifest
from storage.owner import OWNER, owned
from storage.stage import Outcome, run_stage
from tests.storage.count_stage import Body, CountSpec
from tests.storage.small_run import MakeRun


def plant(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("planted")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "model/adapter_config.json", "model/adapter_model.safetensors", "model/modeling.py", "model/__pycache__/x.pyc",
        "model/sub/weights.bin", "model/manifest.json", "model/spec.yaml", "model/run.log", "extra.txt",
        "shard-9.parquet", "other/weights.bin", "model/checkpoints/x", "model/.x.tmp",
    ],
)  # fmt: skip
def test_a_planted_file_is_refused_by_name(spec: CountSpec, body: Body, name: str) -> None:
    run_stage(spec, body)
    planted = plant(spec.folder, name)
    with pytest.raises(ForeignFiles) as caught:
        run_stage(spec, body)
    assert caught.value.where == str(planted)
    assert body.calls == 1, "nothing is done again: that would not remove the file"
    planted.unlink()
    run_stage(spec, body)


@pytest.mark.parametrize(
    "name",
    [
        "spec.yaml", "README.md", "model/README.md", "engine.log", ".numbers.txt.part.json", ".x.123.tmp",
        ".y.tmp/file", "checkpoints/step-000001/weights.bin", "responses/manifest.json", "pairs/spec.yaml",
        "against/other/manifest.json", ".nfs0001", "model/.DS_Store",
    ],
)  # fmt: skip
def test_what_belongs_beside_published_files_stays(spec: CountSpec, body: Body, name: str) -> None:
    run_stage(spec, body)
    plant(spec.folder, name)
    run_stage(spec, body)
    assert body.calls == 1


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "model/../../x", "", ".", "a//b", "./a", "a\\b"])
def test_an_entry_outside_the_folder_is_refused(spec: CountSpec, body: Body, path: str) -> None:
    manifest = run_stage(spec, body)
    with pytest.raises(ValueError, match="is not the path of a file"):
        FileEntry(path=path, bytes=1, sha256="0")
    forged = manifest.model_dump() | {"files": [{"path": path, "bytes": 1, "sha256": "0" * 64}]}
    (spec.folder / MANIFEST).write_text(canonical_json(forged))
    with pytest.raises(BrokenManifest, match="cannot be read as a manifest"):
        read_manifest(spec.folder)


def test_a_manifest_that_names_no_file_is_refused(spec: CountSpec, body: Body) -> None:
    manifest = run_stage(spec, body)
    empty = Manifest.model_construct(**(manifest.model_dump() | {"files": []}))
    sealed = empty.model_dump() | {"digest": empty._own_digest()}
    (spec.folder / MANIFEST).write_text(json.dumps(sealed))
    with pytest.raises(BrokenManifest, match="cannot be read as a manifest"):
        read_manifest(spec.folder)


def by_a_link(path: Path) -> None:
    copy = path.rename(path.parent.parent / f"elsewhere-{path.name}")
    path.symlink_to(copy)


@pytest.mark.parametrize("name", ["numbers.txt", "model/weights.bin", "model"])
def test_a_file_or_folder_behind_a_link_is_made_again(spec: CountSpec, name: str) -> None:
    def body() -> Outcome:
        publish_text(spec.folder / "numbers.txt", "0")
        with publish_folder(spec.folder / "model") as folder:
            (folder / "weights.bin").write_text("w")
        return Outcome(paths=[spec.folder / "numbers.txt", spec.folder / "model"])

    run_stage(spec, body)
    by_a_link(spec.folder / name)
    with pytest.raises(BrokenManifest, match="is a link"):
        read_manifest(spec.folder)
    run_stage(spec, body)
    assert not (spec.folder / name).is_symlink()
    read_manifest(spec.folder)


def test_what_an_earlier_attempt_left_is_removed_when_the_stage_ends(spec: CountSpec, body: Body) -> None:
    plant(spec.folder, "shard-00000-of-00004.parquet")
    run_stage(spec, body)
    assert not (spec.folder / "shard-00000-of-00004.parquet").exists()


def test_explain_names_planted_and_linked_files(make_run: MakeRun) -> None:
    made = make_run("one")
    plant(made.root, "round-01/label/planted.parquet")
    run, asked = find(made.root / "round-01/label")
    problems = [problem for _, problem in trace(run, asked).breaks]
    assert problems == ["round-01/label/planted.parquet is not one of the files that the stage published"]


def test_nothing_is_written_through_links(spec: CountSpec, body: Body, tmp_path: Path) -> None:
    precious = plant(tmp_path, "precious")
    spec.folder.mkdir(parents=True, exist_ok=True)
    for name in ("spec.yaml", "numbers.txt", MANIFEST):
        (spec.folder / name).symlink_to(precious)
    run_stage(spec, body)
    assert precious.read_text() == "planted"
    assert not (spec.folder / "spec.yaml").is_symlink()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_owner_is_not_written_through_a_link(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    precious = plant(tmp_path, "precious")
    (tmp_path / "run").mkdir()
    link(precious, tmp_path / "run" / OWNER)
    with pytest.raises(UserError, match="is a link"), owned(tmp_path / "run"):
        pass
    assert precious.read_text() == "planted"


def test_configuration_is_for_its_user_alone(spec: CountSpec, body: Body, tmp_path: Path) -> None:
    run_stage(spec, body)
    assert stat.S_IMODE((spec.folder / "spec.yaml").stat().st_mode) == 0o600
    publish_text(tmp_path / "plain", "")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o666 & ~umask
