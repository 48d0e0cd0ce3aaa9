"""The engines of a run on a Ray cluster: an Engine for whoever asks it, a Crew for the generate stage."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.child_process import ROOT
from tasks.cluster.actor import EngineActor
from tasks.cluster.agreement import probe_in, refuse_disagreement
from tasks.cluster.calls import result_of, translated
from tasks.cluster.connection import check_ray, join, leave
from tasks.cluster.resources import engine_resources
from tasks.cluster_settings import ClusterSettings
from tasks.generation.dealing import ShardWorker, WorkerLost
from tasks.generation.engines import EngineDied, EngineSettings, Request, Sample
from tasks.generation.settings import GenerateSpec, SamplingSettings
from tasks.generation.shards import ShardJob, ShardReport
from tasks.modeling.vllm_process import environment_of

_GRACE = 10.0  # seconds for engines to close


class RayWorker:
    """A ShardWorker: an actor of the cluster, and the spec whose shards it samples."""

    def __init__(self, name: str, actor: Any, job: "_Job") -> None:
        """actor: a handle of EngineActor."""
        self.name = name
        self.actor = actor
        self._job = job

    def start(self) -> "Future[int]":
        return self._job.threads.submit(self._start)

    def _start(self) -> int:
        """Raises UserError when the worker does not share code, libraries or the run's folder with this process."""
        folder, spec = Path.cwd(), self._job.spec
        with probe_in(folder / spec.folder) as probe:
            facts = result_of(
                self.actor.agree.remote(probe), seconds=self._job.patience, unneeded=self._job.finished.is_set
            )
            refuse_disagreement(facts, probe)
        return int(result_of(self.actor.start.remote(spec, folder), unneeded=self._job.finished.is_set))

    def advance(self, numbers: Sequence[int]) -> "Future[ShardReport]":
        result: Future[ShardReport] = Future()

        def settle(future: "Future[ShardReport]") -> None:
            error = future.exception()
            if error is None:
                result.set_result(future.result())
            else:
                result.set_exception(translated(error))

        self.actor.advance.remote(list(numbers)).future().add_done_callback(settle)
        return result


@dataclass(frozen=True)
class _Job:
    """What the workers of one stage share."""

    spec: GenerateSpec
    patience: float  # seconds until a worker must have a place
    threads: ThreadPoolExecutor  # one for each worker that starts
    finished: threading.Event  # set when nobody needs a worker that is still starting


class RayEngines:
    """An Engine and a Crew: `engine.workers` actors, each with one engine. They end with this process."""

    def __init__(self, engine: EngineSettings, cluster: ClusterSettings, *, trust_remote_code: bool) -> None:
        self._settings, self._cluster, self._trust_remote_code = engine, cluster, trust_remote_code
        self._joined = False
        self._resources: dict[str, float] = {}
        self._actors: list[Any] = []
        self._names = 0
        self._job: _Job | None = None
        self._starting = ThreadPoolExecutor(engine.workers, thread_name_prefix="start-worker")

    def check(self, policy: Path) -> None:
        """Refuse a missing cluster, and one that is too small. What workers see is checked when they start."""
        check_ray()
        if self._cluster.address != "local":
            self._connect()

    def prepare(self, policy: Path) -> None:
        """Have the cluster start the workers' processes. Their engines start with their first stage."""
        self._connect()
        while len(self._actors) < self._settings.workers:
            self._actors.append(self._new_actor())

    def load(self, policy: Path) -> None:
        """On the first worker, for `sample`."""
        self.prepare(policy)
        self._ask(lambda actor: actor.load.remote(policy, Path.cwd()))

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        """By the first worker, so that the number of workers does not change the batches."""
        samples: list[list[Sample]] = self._ask(lambda actor: actor.sample.remote(list(requests), sampling))
        return samples

    def workers(self, job: ShardJob) -> list[ShardWorker]:
        self.prepare(job.spec.policy.path)
        self._job = _Job(job.spec, self._cluster.place_timeout, self._starting, threading.Event())
        return [self._worker(actor) for actor in self._actors]

    def replace(self, worker: ShardWorker) -> ShardWorker:
        assert isinstance(worker, RayWorker)
        self._kill(worker.actor)
        self._actors.append(self._new_actor())
        return self._worker(self._actors[-1])

    def finish(self) -> None:
        if self._job is not None:
            self._job.finished.set()

    def dismiss(self) -> None:
        """End the workers: their calls end with an error."""
        for actor in list(self._actors):
            self._kill(actor)

    def pause(self) -> None:
        if self._settings.between_stages == "stop":
            self._end_workers()
        elif self._settings.between_stages != "keep" and self._actors:
            self._wait([actor.pause.remote() for actor in self._actors])

    def close(self) -> None:
        self._end_workers()
        if self._joined:
            self._joined = False
            leave(self._cluster, self)

    def give_room(self) -> None:
        """Another user of the cluster needs the workers' places. They start again for the next stage that samples."""
        self._end_workers()

    def _connect(self) -> None:
        if not self._joined:
            join(self._cluster, self)
            self._joined = True
            try:
                self._resources = engine_resources(self._settings, self._cluster)
            except BaseException:
                self.close()
                raise

    def _new_actor(self) -> Any:
        import ray

        # Ray sets OMP_NUM_THREADS to a worker's CPUs. With other threads than here, a shard has other bytes.
        threads = environment_of(self._settings).get("OMP_NUM_THREADS", "1")
        variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
        one = type(self._settings).model_validate(self._settings.model_dump() | {"workers": 1})
        options: dict[str, Any] = {
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": variables},
            **self._resources,
        }
        remote: Any = ray.remote(**options)(EngineActor)
        return remote.remote(one, trust_remote_code=self._trust_remote_code)

    def _worker(self, actor: Any) -> RayWorker:
        assert self._job is not None
        self._names += 1
        return RayWorker(str(self._names - 1), actor, self._job)

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        """The result of a call to the first worker. Its death is that of its engine: the task tries again."""
        try:
            return result_of(call(self._actors[0]))
        except WorkerLost as lost:
            self._kill(self._actors[0])
            raise EngineDied(str(lost)) from None

    def _kill(self, actor: Any) -> None:
        import ray

        ray.kill(actor)
        if actor in self._actors:
            self._actors.remove(actor)

    def _end_workers(self) -> None:
        """Close the engines, then end the workers."""
        if self._actors:
            self._wait([actor.close.remote() for actor in self._actors])
            self.dismiss()

    def _wait(self, calls: list[Any]) -> None:
        """Wait for calls whose results do not matter, nor whether their workers live."""
        import ray

        ray.wait(calls, num_returns=len(calls), timeout=_GRACE)
