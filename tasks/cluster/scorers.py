"""Workers of an annotator that scores with a model, on a Ray cluster: each is an actor, on a GPU of its own."""

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from storage.errors import UserError
from tasks.child_process import python_path
from tasks.cluster.agreement import probe_in, refuse_disagreement
from tasks.cluster.calls import result_of
from tasks.cluster.connection import join, leave, make_room
from tasks.cluster.resources import Resources, fitting, has_gpus, room_now
from tasks.cluster.scorer_actor import ScorerActor
from tasks.cluster_settings import ClusterSettings
from tasks.generation.dealing import NoPlace, WorkerLost
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import ScoresWithModel
from tasks.panel.scorer_pool import OpenWorkers, WorkerDied
from tasks.panel.scorer_processes import ProcessWorkers, one_worker, refuse_named_device


def scorers_on(cluster: ClusterSettings, folder: Path) -> OpenWorkers:
    """What opens the workers of annotators. folder: of the stage; workers on other machines must see it."""
    return ProcessWorkers if cluster.kind == "none" else partial(RayScorers, cluster, folder)


class RayScorers:
    """Workers of one annotator on a cluster. They end with this process."""

    def __init__(self, cluster: ClusterSettings, folder: Path, name: str, settings: ScoresWithModel, seed: int) -> None:
        """The cluster is connected to, and its places are counted, when the first worker starts."""
        refuse_named_device(f"annotators.{name}", settings)
        self._cluster, self._folder, self._name, self._seed = cluster, folder, name, seed
        self._settings = settings
        self._resources: Resources | None = None
        self._lock = threading.Lock()

    def start(self, number: int) -> "RayScorer":
        """Raises WorkerDied; and UserError for no cluster, no place, and what the worker refuses."""
        with self._lock:
            resources = self._joined()
        actor = _new_actor(resources)
        with ExitStack() as failed:
            failed.callback(_kill, actor)
            try:
                self._open(actor)
            except NoPlace as error:
                raise self._no_place(error) from None
            except WorkerLost as error:
                raise WorkerDied(str(error)) from None
            failed.pop_all()
        return RayScorer(actor)

    def close(self) -> None:
        if self._resources is not None:
            self._resources = None
            leave(self._cluster, self)

    def give_room(self) -> None:
        """Nothing to give: the workers of an annotator end with its last batch."""

    def _joined(self) -> Resources:
        if self._resources is None:
            with ExitStack() as failed:
                join(self._cluster, self)
                failed.callback(leave, self._cluster, self)
                on_gpus = getattr(self._settings, "device", "auto") != "cpu" and has_gpus()
                where = f"annotators.{self._name}.workers"
                resources = fitting(self._settings.workers, float(on_gpus), self._cluster, where=where)
                if not room_now(self._settings.workers, resources):
                    make_room(self._cluster, self)
                failed.pop_all()
            self._resources = resources
        return self._resources

    def _open(self, actor: Any) -> None:
        with probe_in(Path.cwd() / self._folder) as probe:
            refuse_disagreement(result_of(actor.agree.remote(probe), seconds=self._cluster.place_timeout), probe)
        result_of(actor.open.remote(self._name, one_worker(self._settings), self._seed, Path.cwd()))

    def _no_place(self, error: NoPlace) -> UserError:
        return UserError(
            f"a worker of annotator {self._name!r} does not start: {error}",
            where=f"annotators.{self._name}.workers={self._settings.workers}",
            remedy="end other work on the cluster, lower workers, or raise cluster.place_timeout;"
            " then give the command again",
        )


class RayScorer:
    def __init__(self, actor: Any) -> None:
        """actor: a handle of ScorerActor that has opened the annotator."""
        self._actor = actor

    def score(self, responses: Sequence[Response]) -> list[Score]:
        try:
            scores: list[Score] = result_of(self._actor.score.remote(list(responses)))
        except WorkerLost as lost:
            raise WorkerDied(str(lost)) from None
        return scores

    def end(self) -> None:
        _kill(self._actor)


def _new_actor(resources: Resources) -> Any:
    import ray
    import torch

    # Ray sets OMP_NUM_THREADS to a worker's CPUs. With other threads than here, a score may have other last bits.
    threads = os.environ.get("OMP_NUM_THREADS") or str(torch.get_num_threads())
    remote: Any = ray.remote(
        max_restarts=0,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": {"PYTHONPATH": python_path(), "OMP_NUM_THREADS": threads}},
        num_cpus=resources["num_cpus"],
        num_gpus=resources["num_gpus"],
    )(ScorerActor)
    return remote.remote()


def _kill(actor: Any) -> None:
    import ray

    ray.kill(actor)
