"""Pushing while a run works: stages arrive by themselves, the end waits, and a store that fails is reported."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.files import publish_text
from storage.lineage import open_run
from storage.mirror import background
from storage.mirror.background import mirrored
from storage.mirror.pull import pull
from storage.mirror.store import ObjectStore, StoreFault
from storage.settings import StorageSettings
from tests.storage.s3_server import S3Server, s3_server
from tests.storage.small_run import MakeRun
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as started:
        yield started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_LOOK", 0.05)
    monkeypatch.setattr(background, "_FIRST_PAUSE", 0.05)


def settings(server: S3Server, prefix: str) -> StorageSettings:
    return StorageSettings(mirror=f"s3://runs/{prefix}", endpoint_override=server.endpoint)


def test_stages_arrive_while_the_run_works_and_the_end_waits(
    server: S3Server, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("one", rounds=1).root
    with mirrored(settings(server, "works"), run) as mirror:
        assert mirror is not None
        wait_until(lambda: mirror.has(run / "round-01" / "train"), 20)
        publish_text(run / "rounds.json", "[]\n")
    pull(server.store("works"), tmp_path / "back")
    assert (tmp_path / "back" / "rounds.json").read_text() == "[]\n", "the last files are pushed at the end"
    with mirrored(StorageSettings(), run) as none:
        assert none is None


def test_a_store_that_fails_for_a_while_is_asked_again(
    server: S3Server, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, upload, failures = make_run("one", rounds=1).root, ObjectStore.upload, iter(range(3))

    def failing(self: ObjectStore, path: str, source: Path) -> tuple[int, str]:
        if next(failures, None) is not None:
            raise StoreFault("the store does not answer: 503", where=path, remedy="wait", lasting=False)
        return upload(self, path, source)

    monkeypatch.setattr(ObjectStore, "upload", failing)
    with caplog.at_level(logging.WARNING, "irepo"), mirrored(settings(server, "a-while"), run):
        pass
    assert "the mirror is behind, and is tried again" in caplog.text
    assert f"{next(iter(open_run(run).stages))}/manifest.json" in server.objects("a-while")


def test_a_run_whose_last_push_fails_says_what_is_missing(
    server: S3Server, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("one", rounds=1).root

    def failing(self: ObjectStore, path: str, source: Path) -> tuple[int, str]:
        raise StoreFault("the store refuses access", where=path, remedy="allow it", lasting=True)

    monkeypatch.setattr(ObjectStore, "upload", failing)
    refused = pytest.raises(UserError, match="its mirror is not: the store refuses access")
    with refused as error, mirrored(settings(server, "fails"), run):
        pass
    for name in open_run(run).stages:
        assert name in error.value.what
    assert f"python -m storage.mirror push {run} s3://runs/fails" in error.value.remedy


def test_the_error_of_a_run_is_not_hidden_and_its_finished_stages_are_pushed(
    server: S3Server, make_run: MakeRun
) -> None:
    run = make_run("one", rounds=1).root
    with pytest.raises(UserError, match="the judge is down"), mirrored(settings(server, "error"), run):
        raise UserError("the judge is down", where="here", remedy="start it")
    assert "round-01/train/manifest.json" in server.objects("error")


def test_an_interrupt_leaves_at_once(
    server: S3Server, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "_LOOK", 60.0)
    run = make_run("one", rounds=1).root
    log = caplog.at_level(logging.WARNING, "irepo")
    with log, pytest.raises(KeyboardInterrupt), mirrored(settings(server, "interrupt"), run):
        raise KeyboardInterrupt
    assert server.objects("interrupt") == []
    assert "not in the mirror: " in caplog.text
