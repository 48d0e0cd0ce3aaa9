"""Copies of a scoring annotator on a Ray cluster that the run starts: equal scores, killed copies, nothing left."""

import os
import signal
import threading
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tasks.cluster.scorers import scorers_on
from tasks.cluster_settings import ClusterSettings
from tasks.panel.annotators.registry import open_annotators
from tasks.panel.scorer_pool import ScorerPool
from tests import skips
from tests.panel.frail_scorer import FrailSettings
from tests.panel.scripted import response
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason=skips.NO_RAY)]

BATCHES = [[response(text) for text in texts] for texts in (["one", "three"], ["fifteen"], ["a", "broken"], ["seven"])]


def opened(folder: Path, cluster: ClusterSettings) -> ScorerPool:
    frail = {"frail": FrailSettings(folder=folder, workers=2)}
    (pool,) = open_annotators(frail, seed=0, open_workers=scorers_on(cluster, folder / "stage"))
    assert isinstance(pool, ScorerPool)
    return pool


def test_two_workers_score_as_processes_here_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    here = opened(tmp_path, ClusterSettings())
    expected = [here.vote(batch) for batch in BATCHES]
    here.close()
    for mark in tmp_path.glob("process-*"):
        mark.unlink()

    local = ClusterSettings(kind="ray", address="local", cpus_per_worker=0.5, place_timeout=180)
    pool = opened(tmp_path, local)
    try:
        threads = [threading.Thread(target=pool.vote, args=(batch,)) for batch in BATCHES[:2]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [pool.vote(batch) for batch in BATCHES] == expected
        workers = [int(path.name.removeprefix("process-")) for path in tmp_path.glob("process-*")]
        assert len(workers) == 2
        own = psutil.Process().nice()  # Ray's default is 15 more
        assert {psutil.Process(worker).nice() for worker in workers} == {own}
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        assert [pool.vote(batch) for batch in BATCHES] == expected
    finally:
        pool.close()
    everyone = [int(path.name.removeprefix("process-")) for path in tmp_path.glob("process-*")]
    assert len(everyone) == 4
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in everyone), 30)
