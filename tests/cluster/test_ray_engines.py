"""Engines on a Ray cluster: equal bytes, lost workers, what is refused, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.manifest import MANIFEST
from tasks.child_process import ROOT
from tasks.cluster.local import KEEP_LOOPBACK, LocalCluster, credentials
from tasks.cluster_settings import ClusterSettings
from tasks.engines import open_engine
from tasks.generation.dealing import Crew
from tasks.generation.engines import Engine, EngineError
from tasks.generation.settings import GenerateSpec
from tasks.generation.stage import run
from tests import skips
from tests.cluster.conftest import MakeSpec
from tests.cluster.echo_engine import EchoEngine, EchoSettings
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason=skips.NO_RAY)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterSettings]:
    """A cluster of this machine's CPUs."""
    os.environ |= KEEP_LOOPBACK | credentials()  # before Ray is imported
    local = LocalCluster()
    yield ClusterSettings(kind="ray", address=local.address, cpus_per_worker=0.5, place_timeout=180)
    local.close()
    assert not _processes(local._folder.name)


@pytest.fixture
def engines(cluster: ClusterSettings, tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(_settings(tmp_path), cluster, trust_remote_code=False)
    yield opened
    opened.close()
    assert not any(map(_alive, workers_of(tmp_path))), "a worker outlived the run"


def _settings(folder: Path, **options: object) -> EchoSettings:
    return EchoSettings.model_validate({"folder": folder, "seconds": 0.3, "workers": 2, "waits_for": 2} | options)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("responses-*.parquet"))}


def plain(make_spec: MakeSpec) -> dict[str, bytes]:
    """The shards as one engine in this process publishes them."""
    spec = make_spec("plain")
    run(spec, engine=EchoEngine(EchoSettings()))
    return shards(spec.folder)


def workers_of(folder: Path) -> list[int]:
    """Processes that have loaded an engine."""
    return [int(path.name.partition("-")[0]) for path in folder.glob("[0-9]*-[0-9]*")]


def in_thread(spec: GenerateSpec, engine: Engine) -> threading.Thread:
    thread = threading.Thread(target=run, args=(spec,), kwargs={"engine": engine})
    thread.start()
    return thread


def test_two_workers_publish_the_bytes_of_one_engine(
    make_spec: MakeSpec, engines: Engine, cluster: ClusterSettings
) -> None:
    spec = make_spec("ray", cluster)
    assert isinstance(engines, Crew)
    made = run(spec, engine=engines)
    assert shards(spec.folder) == plain(make_spec)
    assert set(made.summary["tokens_per_second_by_worker"]) == {"0", "1"}
    assert {path.name for path in spec.folder.glob(".probe*")} == set()


def test_the_shards_of_a_killed_worker_are_sampled_anew(
    make_spec: MakeSpec, engines: Engine, cluster: ClusterSettings, tmp_path: Path
) -> None:
    spec = make_spec("ray", cluster)
    thread = in_thread(spec, engines)
    wait_until(lambda: len(shards(spec.folder)) >= 2, 300)
    os.kill(workers_of(tmp_path)[0], signal.SIGKILL)
    thread.join(300)
    assert (spec.folder / MANIFEST).is_file()
    assert shards(spec.folder) == plain(make_spec)


def test_what_a_worker_refuses_is_refused_here(make_spec: MakeSpec, engines: Engine, cluster: ClusterSettings) -> None:
    spec = make_spec("ray", cluster, max_tokens=255)
    with pytest.raises(UserError, match=r"p\.jsonl:"):
        run(spec, engine=engines)
    assert not shards(spec.folder)


def test_an_engine_that_dies_twice_with_a_shard_ends_the_stage(
    make_spec: MakeSpec, cluster: ClusterSettings, tmp_path: Path
) -> None:
    from tasks.generation.encode import request_seed

    deadly = _settings(tmp_path, dies_on=request_seed(5, 1, f"{10:016x}"))
    opened = open_engine(deadly, cluster, trust_remote_code=False)
    try:
        with pytest.raises(EngineError, match="died again with shard 3: out of memory"):
            run(make_spec("ray", cluster), engine=opened)
    finally:
        opened.close()


def test_more_workers_than_cpus_are_refused(cluster: ClusterSettings, tmp_path: Path) -> None:
    opened = open_engine(_settings(tmp_path, workers=9999), cluster, trust_remote_code=False)
    with pytest.raises(UserError, match=r"9999 workers of 0\.5 CPUs do not fit"):
        opened.check(tmp_path)


def test_gpus_that_the_cluster_does_not_have_are_refused(cluster: ClusterSettings, tmp_path: Path) -> None:
    with_gpus = ClusterSettings.model_validate(cluster.model_dump() | {"gpus_per_worker": 1})
    opened = open_engine(_settings(tmp_path), with_gpus, trust_remote_code=False)
    with pytest.raises(UserError, match=r"2 workers of 1 GPUs do not fit: the cluster has 0 GPUs"):
        opened.check(tmp_path)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_a_cluster_is_refused(tmp_path: Path, scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
    nowhere = ClusterSettings(kind="ray", address=address)
    start = time.monotonic()
    with pytest.raises(UserError, match="there is no Ray cluster") as error:
        open_engine(_settings(tmp_path), nowhere, trust_remote_code=False).check(tmp_path)
    assert error.value.where == f"cluster.address={address}"
    assert time.monotonic() - start < 60


def test_a_cluster_that_asks_for_a_token_says_so(cluster: ClusterSettings) -> None:
    """In a process of its own, which reads no token."""
    body = f"from tasks.cluster.connection import _connect\n_connect({cluster.address!r})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run([sys.executable, "-c", body], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Ray cannot connect to what listens there" in done.stderr
    assert "set RAY_AUTH_MODE=token" in done.stderr


def _alive(pid: int) -> bool:
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _processes(mark: str) -> list[int]:
    """Processes whose command line has `mark`, after a moment to end."""
    for _ in range(50):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        if not found:
            return []
        time.sleep(0.2)
    return found
