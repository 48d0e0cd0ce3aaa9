"""Files and folders appear whole or not at all."""

import os
import secrets
from pathlib import Path

import pytest

from storage.files import publish_file, publish_folder, publish_link, publish_text, sha256_file, sweep_temporaries


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    publish_text(tmp_path / "deep" / "a.txt", "one")
    publish_text(tmp_path / "deep" / "a.txt", "zwei ü")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "zwei ü".encode()
    assert names(tmp_path / "deep") == ["a.txt"]
    known = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # sha256 of "foo", FIPS 180-4
    publish_text(tmp_path / "foo", "foo")
    assert sha256_file(tmp_path / "foo") == known


def test_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    publish_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_file(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    publish_text(path, "old")

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert path.read_text() == "old"

    publish_file(path, write)
    assert path.read_text() == "new"


def test_folder_is_published_on_a_clean_exit(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "stale").write_text("of the run before")
    with publish_folder(folder) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "weights").write_text("w")
        assert names(folder) == ["stale"]
    assert names(folder) == ["sub"]
    assert (folder / "sub" / "weights").read_text() == "w"
    assert names(tmp_path) == ["policy"]


def test_folder_stays_as_it_was_on_an_exception(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    with publish_folder(folder) as temporary:
        (temporary / "weights").write_text("old")

    def publish_half() -> None:
        with publish_folder(folder) as temporary:
            (temporary / "weights").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_half()
    assert (folder / "weights").read_text() == "old"
    assert names(tmp_path) == ["policy"]


def test_every_published_byte_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(handle: int) -> None:
        events.append("sync " + Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def note_rename(self: Path, target: Path) -> Path:
        events.append(f"rename {target.name}")
        return replace(self, target)

    monkeypatch.setattr(secrets, "token_hex", lambda _: "0a1b2c3d")
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    publish_text(tmp_path / "a.txt", "a")
    assert events == [f"sync .a.txt.{os.getpid()}-0a1b2c3d.tmp", "rename a.txt", f"sync {tmp_path.name}"]
    events.clear()
    with publish_folder(tmp_path / "f") as temporary:
        (temporary / "w").write_text("w")
    assert events == ["sync w", f"sync .f.{os.getpid()}-0a1b2c3d.tmp", "rename f", f"sync {tmp_path.name}"]


def test_sweep_takes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.99.tmp").write_text("half")
    (tmp_path / ".policy.99.tmp").mkdir()
    (tmp_path / ".policy.99.tmp" / "w").write_text("half")
    for kept in ("a.txt", "b.tmp", ".a.txt.part.json"):
        (tmp_path / kept).write_text("kept")
    sweep_temporaries(tmp_path)
    assert names(tmp_path) == [".a.txt.part.json", "a.txt", "b.tmp"]


def test_a_link_is_replaced_whole_and_moves_with_its_target(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "run" / name).mkdir(parents=True)
        publish_link(tmp_path / "run" / "policy", tmp_path / "run" / name)
        assert (tmp_path / "run" / "policy").resolve() == tmp_path / "run" / name
    (tmp_path / "run").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "policy").resolve() == tmp_path / "moved" / "two"


def test_sweep_takes_a_link_but_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / ".policy.1.tmp").symlink_to("kept")
    sweep_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()
