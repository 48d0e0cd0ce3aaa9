"""A finished stage is adopted; one whose manifest or files changed is refused, and the file is named."""

import json
import logging
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import storage.manifest
from storage.files import canonical_json, digest, publish_text
from storage.manifest import MANIFEST, BrokenManifest, FileEntry, Manifest, code_version, read_manifest
from storage.stage import Outcome, has_part, load_spec, mark_part, run_stage
from tests.storage.count_stage import Body, CountSpec


def changed(spec: CountSpec, **fields: Any) -> CountSpec:
    return CountSpec(**(spec.model_dump() | fields))


def altered(manifest: Manifest, **fields: Any) -> Manifest:
    return Manifest(**(manifest.model_dump() | fields))


def test_finished_stage_is_adopted(spec: CountSpec, body: Body) -> None:
    first = run_stage(spec, body)
    bytes_before = (spec.folder / MANIFEST).read_bytes()
    assert run_stage(spec, body) == first
    assert body.calls == 1
    assert (spec.folder / MANIFEST).read_bytes() == bytes_before
    assert [entry.path for entry in first.files] == ["model/weights.bin", "numbers.txt"]
    assert (first.rows, first.summary, first.seed, first.round) == ({"numbers": 3}, {"mean": 1.0}, 5, 1)


def test_run_folder_may_move(spec: CountSpec, body: Body) -> None:
    first = run_stage(spec, body)
    moved = spec.folder.parents[1] / "elsewhere"
    shutil.move(spec.folder.parent, moved)
    assert run_stage(changed(spec, folder=moved / "count"), body) == first
    assert body.calls == 1


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"round": 2},
        {"settings": {"until": 4}},
        {"limit": 1},
        {"source": {"path": "somewhere", "digest": "abd"}},
        {"others": {"a": {"path": "somewhere", "digest": "abc"}}},
    ],
    ids=str,
)
def test_other_work_is_done_again(
    spec: CountSpec, body: Body, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run_stage(spec, body)
    with caplog.at_level(logging.WARNING, logger="irepo"):
        again = run_stage(changed(spec, **change), body)
    assert body.calls == 2
    assert again.key == changed(spec, **change).key() != spec.key()
    assert "settings or inputs changed" in caplog.text


def test_the_version_is_in_the_key(spec: CountSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    before = spec.key()
    monkeypatch.setattr(type(spec), "version", 2)
    assert spec.key() != before


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["numbers.txt", "model/weights.bin"])
@pytest.mark.parametrize(("harm", "what"), [(remove, "is missing"), (cut, "bytes"), (alter, "was altered")])
def test_harmed_file_is_refused_by_name_and_made_again(
    spec: CountSpec, body: Body, name: str, harm: Callable[[Path], None], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = run_stage(spec, body)
    harm(spec.folder / name)
    with pytest.raises(BrokenManifest, match=f"{name}.* {what}|{name} {what}"):
        read_manifest(spec.folder)
    with caplog.at_level(logging.WARNING, logger="irepo"):
        again = run_stage(spec, body)
    assert f"done again: {spec.folder / name}" in caplog.text
    assert body.calls == 2
    assert again.content == first.content


def test_manifest_alone_can_be_read_without_its_files(spec: CountSpec, body: Body) -> None:
    first = run_stage(spec, body)
    remove(spec.folder / "numbers.txt")
    assert read_manifest(spec.folder, check_files=False) == first


@pytest.mark.parametrize(
    ("field", "value"),
    [("seconds", 0.5), ("seed", 6), ("summary", {"mean": 2.0}), ("digest", "0" * 64), ("rows", {})],
)
def test_altered_manifest_is_refused(spec: CountSpec, body: Body, field: str, value: Any) -> None:
    run_stage(spec, body)
    path = spec.folder / MANIFEST
    path.write_text(canonical_json(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(BrokenManifest, match=r"manifest\.json was altered"):
        read_manifest(spec.folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "count"}', "\xff"])
def test_cut_manifest_is_refused(spec: CountSpec, body: Body, text: str) -> None:
    run_stage(spec, body)
    (spec.folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(BrokenManifest, match=r"manifest\.json cannot be read as a manifest"):
        read_manifest(spec.folder)
    run_stage(spec, body)
    assert body.calls == 2


def test_manifest_survives_the_round_trip_with_awkward_values(spec: CountSpec, body: Body) -> None:
    summary = {"tiny": 5e-324, "third": 1 / 3, "none": None, "text": "naïve → 😀", "counts": {9: 1, 10: 2}, "t": (1, 2)}
    written = run_stage(spec, lambda: Outcome(paths=body().paths, summary=summary))
    assert read_manifest(spec.folder).digest == written.digest
    assert read_manifest(spec.folder).summary["third"] == 1 / 3


def test_content_is_that_of_the_files_not_of_the_run(spec: CountSpec, body: Body) -> None:
    manifest = run_stage(spec, body)
    assert altered(manifest, seconds=99.0, started="later").content == manifest.content
    other = [FileEntry(path="numbers.txt", bytes=6, sha256="0" * 64), manifest.files[0]]
    assert altered(manifest, files=other).content != manifest.content
    assert altered(manifest, files=manifest.files[::-1]).content == manifest.content


def test_failed_body_leaves_no_manifest(spec: CountSpec, body: Body) -> None:
    run_stage(spec, body)
    (spec.folder / ".numbers.txt.123.tmp").write_text("left by a killed process")

    def fail() -> Outcome:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run_stage(changed(spec, seed=6), fail)
    assert not (spec.folder / MANIFEST).exists()
    assert not list(spec.folder.glob(".*.tmp"))


def test_spec_is_read_back_as_it_was(spec: CountSpec, body: Body) -> None:
    run_stage(spec, body)
    again = load_spec(spec.folder / "spec.yaml", type(spec))
    assert again == spec
    assert again.key() == spec.key()


def test_part_of_this_work_is_kept(spec: CountSpec) -> None:
    path = spec.folder / "shard-0.txt"
    publish_text(path, "whole")
    assert not has_part(spec, path)  # without a sidecar it may belong to any work
    mark_part(spec, path)
    assert has_part(spec, path)


@pytest.mark.parametrize("harm", [remove, cut, alter])
def test_harmed_part_is_made_again(spec: CountSpec, harm: Callable[[Path], None]) -> None:
    path = spec.folder / "shard-0.txt"
    publish_text(path, "whole")
    mark_part(spec, path)
    harm(path)
    assert not has_part(spec, path)


def test_part_of_other_work_is_made_again(spec: CountSpec) -> None:
    path, sidecar = spec.folder / "shard-0.txt", spec.folder / ".shard-0.txt.part.json"
    publish_text(path, "whole")
    mark_part(spec, path)
    assert not has_part(changed(spec, seed=6), path)
    sidecar.rename(spec.folder / ".shard-1.txt.part.json")
    assert not has_part(spec, path)
    (spec.folder / "shard-1.txt").write_text("whole")
    assert not has_part(spec, spec.folder / "shard-1.txt")  # the sidecar is that of shard-0
    sidecar.write_text("{")
    assert not has_part(spec, path)


def test_digest_is_that_of_the_value_not_of_its_spelling() -> None:
    assert digest({"b": 1, "a": [1.0, None]}) == digest({"a": [1.0, None], "b": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
    with pytest.raises(ValueError, match="Out of range float"):
        digest(float("nan"))


def checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one tracked file, in place of irepo's."""
    folder.mkdir()
    (folder / "code.py").write_text(f"{folder.name}\n")  # repositories of other names have other commits
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    for words in (["init", "-q"], ["add", "code.py"], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    monkeypatch.setattr(storage.manifest, "CHECKOUT", folder)
    return folder


def test_code_version_is_the_commit_and_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkout(tmp_path / "code", monkeypatch)
    other = checkout(tmp_path / "other", monkeypatch)
    monkeypatch.setattr(storage.manifest, "CHECKOUT", folder)
    ask = code_version.__wrapped__
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True).stdout
    monkeypatch.chdir(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))  # as in a hook of another repository
    assert ask() == head[:12]
    (folder / "notes.txt").write_text("not tracked")
    assert ask() == head[:12]
    (folder / "code.py").write_text("two\n")
    assert ask() == f"{head[:12]}+changes"


@pytest.mark.parametrize("fault", ["no checkout", "no git", "slow git", "broken checkout"])
def test_code_version_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    folder = checkout(tmp_path / "code", monkeypatch)
    if fault == "no checkout":  # but its parent is one: that is not the code's version
        (folder / "inner").mkdir()
        monkeypatch.setattr(storage.manifest, "CHECKOUT", folder / "inner")
    elif fault == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif fault == "slow git":
        monkeypatch.setattr(subprocess, "run", Mock(side_effect=subprocess.TimeoutExpired("git", 5)))
    else:
        (folder / ".git" / "HEAD").write_text("nonsense")
    assert code_version.__wrapped__() == "unknown"


def test_code_version_is_in_the_manifest_and_in_no_key(
    spec: CountSpec, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.manifest, "code_version", lambda: "one")
    first = run_stage(spec, body)
    assert first.versions["irepo"] == "one"
    monkeypatch.setattr(storage.manifest, "code_version", lambda: "two")
    assert run_stage(spec, body) == first  # adopted
    again = spec.folder.with_name("again")
    manifest = run_stage(changed(spec, folder=again), Body(again))
    assert (manifest.versions["irepo"], manifest.key) == ("two", first.key)
    assert altered(first, versions=manifest.versions).content == first.content


def test_a_clock_that_jumps_changes_nothing_but_when(
    spec: CountSpec, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock says 1970, then 2100, between a part, the stage and its adoption."""
    part = spec.folder / "part.txt"
    publish_text(part, "a shard")
    mark_part(spec, part)
    gmtime = time.gmtime
    monkeypatch.setattr(time, "gmtime", lambda *_: gmtime(0))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert has_part(spec, part)
    made = run_stage(spec, body)
    assert (made.started, made.seconds >= 0) == ("1970-01-01T00:00:00Z", True)
    monkeypatch.setattr(time, "gmtime", lambda *_: gmtime(4102444800))
    monkeypatch.setattr(time, "time", lambda: 4102444800.0)
    assert run_stage(spec, body) == made
    assert body.calls == 1
