"""Copies of a scoring annotator on a cluster, with threads in place of Ray's processes."""

import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.cluster.scorers import scorers_on
from tasks.cluster_settings import ClusterSettings
from tasks.engines import open_engine
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.registry import open_annotators
from tasks.panel.scorer_pool import ScorerPool
from tests.cluster.conftest import MakeSpec
from tests.cluster.echo_engine import EchoSettings
from tests.cluster.threads_for_ray import Cluster
from tests.panel.frail_scorer import FrailSettings
from tests.panel.scripted import response
from tests.waiting import limit

BATCHES = [[response(text) for text in texts] for texts in (["one", "three"], ["fifteen"], ["a", "broken"], ["seven"])]


@pytest.fixture
def settings() -> Iterator[ClusterSettings]:
    with socket.create_server(("127.0.0.1", 0)) as server:  # the driver looks before it has Ray connect
        yield ClusterSettings(kind="ray", address=f"127.0.0.1:{server.getsockname()[1]}")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster([{"CPU": 1.0}, {"CPU": 1.0}])
    module = made.module()
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setitem(sys.modules, "ray.exceptions", module.exceptions)
    return made


def opened(folder: Path, cluster: ClusterSettings, workers: int = 2) -> ScorerPool:
    frail = {"frail": FrailSettings(folder=folder, workers=workers)}
    (pool,) = open_annotators(frail, seed=0, open_workers=scorers_on(cluster, folder / "stage"))
    assert isinstance(pool, ScorerPool)
    return pool


def scored(pool: ScorerPool, batches: Sequence[Sequence[Response]] = BATCHES) -> list[list[Score]]:
    with ThreadPoolExecutor(pool.workers) as threads:
        return list(threads.map(pool.vote, batches))


def test_scores_are_those_of_processes_here(tmp_path: Path, cluster: Cluster, settings: ClusterSettings) -> None:
    here = opened(tmp_path, ClusterSettings())
    expected = scored(here)
    here.close()
    pool = opened(tmp_path, settings)
    assert not cluster.actors  # nothing starts before the first batch
    assert scored(pool) == expected
    assert [(each["num_cpus"], each["num_gpus"], each["max_restarts"]) for each in cluster.options] == [(1, 0, 0)] * 2
    pool.close()
    assert not cluster.living
    assert not list(tmp_path.glob("stage/.probe*"))


def test_a_lost_worker_is_replaced_and_its_batch_scored_anew(
    tmp_path: Path, cluster: Cluster, settings: ClusterSettings
) -> None:
    pool = opened(tmp_path, settings)
    before = scored(pool)
    cluster.actors[0].die()
    cluster.actors[1].die()
    assert scored(pool) == before
    assert len(cluster.actors) == 4
    pool.close()
    assert not cluster.living


def test_idle_engines_give_up_their_places(
    make_spec: MakeSpec, tmp_path: Path, cluster: Cluster, settings: ClusterSettings
) -> None:
    engines = open_engine(EchoSettings(workers=2), settings, trust_remote_code=False)
    engines.prepare(tmp_path)  # both CPUs are theirs
    pool = opened(tmp_path, settings)
    scored(pool)
    assert [actor.dead for actor in cluster.actors[:2]] == [True, True]
    pool.close()
    engines.prepare(tmp_path)
    assert len(cluster.living) == 2
    engines.close()
    assert not cluster.living


def test_engines_stay_where_there_is_room(tmp_path: Path, cluster: Cluster, settings: ClusterSettings) -> None:
    cluster.nodes = [{"CPU": 4.0}]
    engines = open_engine(EchoSettings(workers=2), settings, trust_remote_code=False)
    engines.prepare(tmp_path)
    pool = opened(tmp_path, settings)
    scored(pool)
    assert not any(actor.dead for actor in cluster.actors)
    pool.close()
    engines.close()


def test_what_cannot_run_is_refused_by_key(tmp_path: Path, cluster: Cluster, settings: ClusterSettings) -> None:
    pool = opened(tmp_path, settings, workers=3)
    with pytest.raises(UserError, match="3 workers of 1 CPUs do not fit") as refused:
        pool.vote(BATCHES[0])
    assert refused.value.where == "annotators.frail.workers=3"
    pool.close()
    cluster.places = 0
    soon = ClusterSettings.model_validate(settings.model_dump() | {"place_timeout": limit(0.2)})
    pool = opened(tmp_path, soon)
    with pytest.raises(UserError, match=r"does not start: it got no place within cluster\.place_timeout"):
        pool.vote(BATCHES[0])
    pool.close()
    assert not cluster.living
