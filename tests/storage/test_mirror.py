"""A run's mirror on a real S3 server: pushed, killed, pulled; faults are refused by name, and nothing is half there."""

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.files import publish_link, publish_text
from storage.lineage import open_run
from storage.manifest import read_manifest
from storage.mirror.__main__ import main
from storage.mirror.index import INDEX, LOOSE
from storage.mirror.pull import Choice, pull
from storage.mirror.push import Altered, Pusher, check_mirror
from storage.mirror.store import ObjectStore, StoreFault, open_store
from tests.storage.s3_server import S3Server, s3_server
from tests.storage.small_run import MakeRun

_NUMBERS = count()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as started:
        yield started


@pytest.fixture
def prefix() -> str:
    return f"mirror-{next(_NUMBERS)}"


@pytest.fixture
def run(make_run: MakeRun) -> Path:
    root = make_run("one", rounds=1).root
    publish_text(root / "rounds.json", "[]\n")
    publish_text(root / "answers" / "judge-0123.jsonl", '{"answer": 1}\n')
    publish_link(root / "policy", root / "round-01" / "train" / "policy")
    return root


def files(root: Path) -> dict[str, bytes]:
    """All files but the owner's and the mark."""
    paths = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and path.name[0] != "."]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def push(run: Path, store: ObjectStore) -> int:
    return Pusher(run, store).push(everything=True)


def test_a_pushed_run_comes_back_with_the_same_bytes(server: S3Server, prefix: str, run: Path, tmp_path: Path) -> None:
    assert push(run, server.store(prefix)) == len(open_run(run).stages)
    back = tmp_path / "elsewhere" / "one"
    done = pull(server.store(prefix), back)
    assert (done.stages, done.unfinished) == (len(open_run(run).stages), [])
    assert files(back) == files(run)
    assert (back / "policy").readlink() == (run / "policy").readlink()
    assert (back / "config.yaml").stat().st_mode & 0o077 == 0
    for name in open_run(run).stages:
        read_manifest(back / name)
    assert push(back, server.store(prefix)) == 0, "the machine that pulled goes on with the same mirror"


def test_a_stage_goes_up_with_its_manifest_last(
    server: S3Server, prefix: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    upload, write = ObjectStore.upload, ObjectStore.write

    def uploaded(self: ObjectStore, path: str, source: Path) -> tuple[int, str]:
        written.append(path)
        return upload(self, path, source)

    def put(self: ObjectStore, path: str, content: bytes) -> None:
        written.append(path)
        write(self, path, content)

    monkeypatch.setattr(ObjectStore, "upload", uploaded)
    monkeypatch.setattr(ObjectStore, "write", put)
    push(run, server.store(prefix))
    for name, stage in open_run(run).stages.items():
        places = [written.index(f"{name}/{entry.path}") for entry in stage.manifest.files]
        manifest = written.index(f"{name}/manifest.json")
        assert max(places) < manifest < written.index(INDEX, manifest)


def moments(first: int, last: int, *, quick: tuple[int, ...]) -> list[object]:
    """Numbers of requests; all but a few are slow."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in range(first, last)]


def stop_at(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Let the n-th request that changes the store raise, as where a process dies."""
    changes = count(1)

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object) -> object:
            if next(changes) >= nth:
                raise KeyboardInterrupt
            return call(*arguments)

        return called

    for name in ("upload", "write", "remove"):
        monkeypatch.setattr(ObjectStore, name, dying(getattr(ObjectStore, name)))


CHANGES = 36  # that a push of `run` makes


@pytest.mark.parametrize("nth", moments(1, CHANGES + 1, quick=(13, CHANGES)))
def test_a_push_that_died_leaves_whole_stages_only_and_goes_on(
    server: S3Server, prefix: str, run: Path, tmp_path: Path, nth: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, nth)
        with pytest.raises(KeyboardInterrupt):
            push(run, server.store(prefix))
    if INDEX in server.objects(prefix):
        back = tmp_path / "half"
        done = pull(server.store(prefix), back)
        assert len(done.unfinished) <= 1
        for name in open_run(back).stages:
            assert read_manifest(back / name) == read_manifest(run / name)
        assert not any((back / name / "manifest.json").exists() for name in done.unfinished)
    push(run, server.store(prefix))
    done = pull(server.store(prefix), tmp_path / "whole")
    assert done.unfinished == []
    assert files(tmp_path / "whole") == files(run)
    loose = [path for path in server.objects(prefix) if path.startswith(LOOSE)]
    assert len(loose) == len({path.split("/", 3)[3] for path in loose}), "one version of each file"


@pytest.mark.parametrize("nth", moments(1, 24, quick=(3,)))
def test_a_stage_that_replaces_another_is_never_mixed_with_it(
    server: S3Server, prefix: str, run: Path, make_run: MakeRun, tmp_path: Path, nth: int
) -> None:
    """Both have files of the same names and sizes: what is there of the old stage must not count as sent."""
    push(run, server.store(prefix))
    old, stage = files(run), "round-01/train"
    weights = run / stage / "policy" / "model.safetensors"
    manifest = read_manifest(run / stage)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    entries = [type(entry).of(run / stage, run / stage / entry.path) for entry in manifest.files]
    manifest.model_copy(update={"files": entries}).sealed().write(run / stage)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, nth)
        try:
            push(run, server.store(prefix))
        except KeyboardInterrupt:
            done = pull(server.store(prefix), tmp_path / "half")
            if not done.unfinished:
                half = {name: text for name, text in files(tmp_path / "half").items() if name.startswith(stage)}
                assert half in (
                    {name: text for name, text in old.items() if name.startswith(stage)},
                    {name: text for name, text in files(run).items() if name.startswith(stage)},
                )
            else:
                assert done.unfinished == [stage]
    push(run, server.store(prefix))
    pull(server.store(prefix), tmp_path / "whole")
    assert files(tmp_path / "whole") == files(run)


def test_what_changes_is_pushed_again_and_old_versions_are_removed(
    server: S3Server, prefix: str, run: Path, tmp_path: Path
) -> None:
    pusher = Pusher(run, server.store(prefix))
    pusher.push(everything=True)
    sent, objects = pusher.sent_bytes, len(server.objects(prefix))
    pusher.push(everything=True)
    assert pusher.sent_bytes == sent
    with (run / "answers" / "judge-0123.jsonl").open("a") as journal:
        journal.write('{"answer": 2}\n')
    (run / "rounds.json").unlink()
    pusher.push(everything=False)
    assert pusher.sent_bytes == sent, "a file that grows is not pushed at every look"
    pusher.push(everything=True)
    assert len(server.objects(prefix)) == objects - 1
    pull(server.store(prefix), tmp_path / "back")
    assert files(tmp_path / "back") == files(run)


def test_checkpoints_and_shards_of_unfinished_stages_stay_here(
    server: S3Server, prefix: str, run: Path, tmp_path: Path
) -> None:
    unfinished = run / "round-02" / "train"
    for name in ("spec.yaml", "checkpoints/step-000001/weights.safetensors", "responses-0001.parquet", "engine.log"):
        publish_text(unfinished / name, name)
    push(run, server.store(prefix))
    pull(server.store(prefix), tmp_path / "back")
    there = sorted(path.name for path in (tmp_path / "back" / "round-02" / "train").rglob("*"))
    assert there == ["engine.log", "spec.yaml"]


def test_a_damaged_file_is_not_pushed(server: S3Server, prefix: str, run: Path, tmp_path: Path) -> None:
    weights = run / "round-01" / "train" / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(Altered, match=r"model\.safetensors"):
        push(run, server.store(prefix))
    done = pull(server.store(prefix), tmp_path / "back")
    assert done.unfinished == ["round-01/train"]
    assert done.stages == len(open_run(run).stages) - 1


def test_lost_and_altered_objects_are_refused_by_name(server: S3Server, prefix: str, run: Path, tmp_path: Path) -> None:
    push(run, server.store(prefix))
    lost = "round-01/train/policy/model.safetensors"
    content = server.read(prefix, lost)
    server.remove(prefix, lost)
    with pytest.raises(UserError, match=f"1 object is missing: {lost}"):
        pull(server.store(prefix), tmp_path / "back")
    assert files(tmp_path / "back") == {}, "refused before anything is written"
    done = pull(server.store(prefix), tmp_path / "without", Choice(without=["round-01/train"]))
    assert done.stages == len(open_run(run).stages) - 1
    server.write(prefix, lost, content[::-1])
    with pytest.raises(UserError, match="the object was altered"):
        pull(server.store(prefix), tmp_path / "altered")
    assert not (tmp_path / "altered" / "round-01" / "train" / "manifest.json").exists()
    assert not (tmp_path / "altered" / lost).exists()
    server.write(prefix, lost, content[:-1])
    with pytest.raises(UserError, match=f"1 object is not as long as pushed: {lost}"):
        pull(server.store(prefix), tmp_path / "cut")
    server.write(prefix, lost, content)
    server.remove(prefix, "round-01/label/manifest.json")
    with pytest.raises(UserError, match=r"1 object is missing: round-01/label/manifest.json"):
        pull(server.store(prefix), tmp_path / "manifest")


def test_a_pull_that_died_goes_on_and_a_run_does_not_start_before(
    server: S3Server, prefix: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, server.store(prefix))
    back, download, calls = tmp_path / "back", ObjectStore.download, count()

    def dying(self: ObjectStore, path: str, target: Path) -> str:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return download(self, path, target)

    monkeypatch.setattr(ObjectStore, "download", dying)
    with pytest.raises(KeyboardInterrupt):
        pull(server.store(prefix), back)
    with pytest.raises(UserError, match="a pull into this run folder did not end"):
        Pusher(back, server.store(prefix))
    pull(server.store(prefix), back)
    assert files(back) == files(run)


def test_folders_and_mirrors_of_other_runs_are_refused(
    server: S3Server, prefix: str, run: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    push(run, server.store(prefix))
    other = make_run("two", seed=1).root
    with pytest.raises(UserError, match="the folder has other content"):
        pull(server.store(prefix), other)
    with pytest.raises(UserError, match=r"the mirror has another run: one[\s\S]*pull it first"):
        Pusher(other, server.store(prefix))
    with pytest.raises(UserError, match="there is no mirror of a run"):
        pull(server.store(f"{prefix}-nothing"), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_two_machines_that_push_one_run_are_told(server: S3Server, prefix: str, run: Path, tmp_path: Path) -> None:
    first = Pusher(run, server.store(prefix))
    first.push(everything=True)
    back = tmp_path / "back"
    pull(server.store(prefix), back)
    publish_text(back / "rounds.json", "[1]\n")
    push(back, server.store(prefix))
    publish_text(run / "rounds.json", "[2]\n")
    with pytest.raises(UserError, match="another process has changed the mirror"):
        first.push(everything=True)


def test_wrong_addresses_are_refused(server: S3Server, tmp_path: Path) -> None:
    for address, said in {
        "runs/mine": "there is no scheme",
        "http://bucket/mine": "the scheme 'http' is not one of s3, gs",
        "s3:///mine": "names no bucket",
        "s3://key:secret@bucket/mine": "the address holds credentials",
        "s3://bucket/mine?secret_key=abc": "options that s3 does not take: secret_key",
        "abfss://account.dfs.core.windows.net/x": "names no container",
    }.items():
        with pytest.raises(UserError, match=said) as refused:
            open_store(address)
        assert "secret@" not in str(refused.value)
        assert "abc" not in str(refused.value)
    with pytest.raises(StoreFault, match="there is no such bucket") as fault:
        check_mirror(tmp_path / "run", open_store("s3://no-such-bucket/mine", server.endpoint))
    assert fault.value.lasting
    with pytest.raises(StoreFault, match="the store does not answer") as fault:
        check_mirror(tmp_path / "run", open_store("s3://runs/mine", "http://127.0.0.1:9"))
    assert not fault.value.lasting


def test_the_command_pushes_and_pulls(
    server: S3Server, prefix: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, endpoint = f"s3://runs/{prefix}", ["--endpoint-override", server.endpoint]
    with pytest.raises(UserError, match=r"no address: the run has no storage\.mirror"):
        main(["push", str(run)])
    main(["push", str(run), address, *endpoint])
    main(["pull", address, str(tmp_path / "back"), *endpoint])
    printed = capsys.readouterr().out
    assert f"pushed {len(open_run(run).stages)} stages" in printed
    assert "every digest holds; the command that started the run continues it" in printed
    assert files(tmp_path / "back") == files(run)


def test_an_altered_index_is_refused(server: S3Server, prefix: str, run: Path, tmp_path: Path) -> None:
    push(run, server.store(prefix))
    index = json.loads(server.read(prefix, INDEX))
    index["links"]["../outside"] = "round-01"
    server.write(prefix, INDEX, json.dumps(index).encode())
    with pytest.raises(UserError, match="the index of the mirror was altered"):
        pull(server.store(prefix), tmp_path / "back")
    server.write(prefix, INDEX, b"{")
    with pytest.raises(UserError, match="this is not the index of a mirror"):
        pull(server.store(prefix), tmp_path / "back")
