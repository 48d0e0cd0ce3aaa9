"""What the driver does with workers of a cluster, with threads in place of Ray's processes."""

import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.manifest import MANIFEST
from tasks.cluster.actor import EngineActor
from tasks.cluster.agreement import code_digest
from tasks.cluster_settings import ClusterSettings
from tasks.engines import open_engine
from tasks.generation.engines import Engine, EngineError, Request
from tasks.generation.settings import SamplingSettings
from tasks.generation.stage import run
from tests.cluster.conftest import MakeSpec
from tests.cluster.echo_engine import EchoEngine, EchoSettings
from tests.cluster.threads_for_ray import Cluster
from tests.waiting import limit, wait_until

TWO_NODES = [{"CPU": 2.0}, {"CPU": 1.0}]


@pytest.fixture
def address() -> Iterator[str]:
    """Where something listens: the driver looks before it has Ray connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def settings(address: str) -> ClusterSettings:
    return ClusterSettings(kind="ray", address=address)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(TWO_NODES)
    module = made.module()
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setitem(sys.modules, "ray.exceptions", module.exceptions)
    return made


def engines(cluster: ClusterSettings, *, workers: int = 2, **options: object) -> Engine:
    made = EchoSettings.model_validate({"workers": workers, "seconds": 0.05} | options)
    return open_engine(made, cluster, trust_remote_code=False)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("responses-*.parquet"))}


def plain(make_spec: MakeSpec) -> dict[str, bytes]:
    spec = make_spec("plain")
    run(spec, engine=EchoEngine(EchoSettings()))
    return shards(spec.folder)


def test_two_workers_publish_the_bytes_of_one_engine(
    make_spec: MakeSpec, cluster: Cluster, settings: ClusterSettings, tmp_path: Path
) -> None:
    spec, opened = make_spec("ray", settings), engines(settings, folder=tmp_path, waits_for=2)
    made = run(spec, engine=opened)
    assert shards(spec.folder) == plain(make_spec)
    assert set(made.summary["tokens_per_second_by_worker"]) == {"0", "1"}
    assert not list(spec.folder.glob(".probe*"))
    assert [(each["num_cpus"], each["num_gpus"], each["max_restarts"]) for each in cluster.options] == [(1, 0, 0)] * 2
    run(make_spec("second", settings), engine=opened)
    assert len(cluster.actors) == 2  # they are kept between stages
    opened.close()
    assert not cluster.living


def test_a_lost_worker_is_replaced(make_spec: MakeSpec, cluster: Cluster, settings: ClusterSettings) -> None:
    spec, opened = make_spec("ray", settings), engines(settings, seconds=0.2)
    thread = threading.Thread(target=run, args=(spec,), kwargs={"engine": opened})
    thread.start()
    wait_until(lambda: len(shards(spec.folder)) >= 2, 30, pause=0.02)
    cluster.actors[0].die()
    thread.join(60)
    assert (spec.folder / MANIFEST).is_file()
    assert shards(spec.folder) == plain(make_spec)
    assert len(cluster.actors) == 3
    opened.close()
    assert not cluster.living


def test_without_a_place_the_others_go_on(
    make_spec: MakeSpec, cluster: Cluster, settings: ClusterSettings, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.places = 1
    code_digest()  # read once: it takes a moment
    soon = ClusterSettings.model_validate(settings.model_dump() | {"place_timeout": limit(0.2)})
    opened = engines(soon, seconds=limit(0.2) / 4)
    run(make_spec("ray", soon), engine=opened)
    assert "has no place on the cluster; 1 go on" in caplog.text
    assert shards(make_spec("ray").folder) == plain(make_spec)
    cluster.places = 0
    opened.close()
    with pytest.raises(UserError, match=r"cluster\.place_timeout="):
        run(make_spec("nowhere", soon), engine=opened)
    assert not list(make_spec("nowhere").folder.glob(".probe*"))


def test_what_a_worker_refuses_is_refused_here(
    make_spec: MakeSpec, cluster: Cluster, settings: ClusterSettings
) -> None:
    spec = make_spec("ray", settings, max_tokens=255)
    with pytest.raises(UserError, match=r"p\.jsonl:"):
        run(spec, engine=engines(settings))
    assert not shards(spec.folder)
    assert not cluster.living  # a failed stage leaves no call under way


def test_other_code_on_a_worker_is_refused(
    make_spec: MakeSpec, cluster: Cluster, settings: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = EngineActor.agree
    monkeypatch.setattr(EngineActor, "agree", lambda self, probe: replace(before(self, probe), code="another commit"))
    spec = make_spec("ray", settings)
    with pytest.raises(UserError, match="another version of irepo's code"):
        run(spec, engine=engines(settings))
    assert not shards(spec.folder)
    assert not list(spec.folder.glob(".probe*"))


def test_an_engine_that_dies_twice_with_a_shard_ends_the_stage(
    make_spec: MakeSpec, cluster: Cluster, settings: ClusterSettings
) -> None:
    from tasks.generation.encode import request_seed

    deadly = engines(settings, dies_on=request_seed(5, 1, f"{10:016x}"))
    with pytest.raises(EngineError, match="died again with shard 3: out of memory"):
        run(make_spec("ray", settings), engine=deadly)


def test_a_question_is_answered_by_one_worker(cluster: Cluster, settings: ClusterSettings, tiny_policy: Path) -> None:
    opened, requests = engines(settings), [Request([1, 2], seed) for seed in (3, 4)]
    opened.load(tiny_policy)
    sampling = SamplingSettings(responses=2)
    assert opened.sample(requests, sampling) == EchoEngine(EchoSettings()).sample(requests, sampling)
    opened.pause()
    assert len(cluster.living) == 2
    opened.close()


def test_workers_that_do_not_fit_are_refused(cluster: Cluster, settings: ClusterSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 workers of 1 CPUs do not fit: the cluster has 3 CPUs on 2 nodes"):
        engines(settings, workers=4).check(tmp_path)
    with_gpus = ClusterSettings.model_validate(settings.model_dump() | {"gpus_per_worker": 2})
    with pytest.raises(UserError, match=r"2 workers of 2 GPUs do not fit: the cluster has 0 GPUs") as error:
        engines(with_gpus).check(tmp_path)
    assert "cluster.gpus_per_worker" in error.value.remedy
    cluster.nodes = [{"CPU": 9.0, "GPU": 3.0}, {"CPU": 9.0, "GPU": 1.0}]  # two GPUs of two nodes are no place
    with pytest.raises(UserError, match=r"2 workers of 2 GPUs do not fit: .* room for 1"):
        engines(with_gpus).check(tmp_path)


def test_an_address_without_a_cluster_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"ray://127.0.0.1:{free.getsockname()[1]}"
    nowhere = ClusterSettings(kind="ray", address=where)
    with pytest.raises(UserError, match="there is no Ray cluster") as error:
        engines(nowhere).check(tmp_path)
    assert error.value.where == f"cluster.address={where}"
