"""Whole shards dealt to workers: who gets what, what happens when an engine or a worker dies, and equal bytes."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pytest

from storage.errors import UserError
from tasks.generation.dealing import Dealer, NoPlace, ShardWorker, WorkerLost
from tasks.generation.encode import PromptReader
from tasks.generation.engines import EngineDied, EngineError, Request, Sample
from tasks.generation.engines.transformers import TransformersEngine, TransformersSettings
from tasks.generation.engines.vllm import VllmSettings
from tasks.generation.pool import EnginePool
from tasks.generation.settings import SamplingSettings
from tasks.generation.shards import Counts, ShardJob, ShardReport, verifying
from tasks.generation.stage import run
from tasks.modeling.load import load_tokenizer
from tasks.modeling.vllm_process import visible_devices
from tests.generation.conftest import MakeSpec, WatchedEngine

T = TypeVar("T")

#: What a worker does instead of publishing: called with the shards that it holds.
Fault = Callable[[set[int]], Exception | None]


class Worker:
    """Publishes the smallest shard that it holds, unless `fault` raises something else."""

    def __init__(self, name: str, *, capacity: int = 2, fault: Fault = lambda held: None) -> None:
        self.name = name
        self._capacity, self._fault = capacity, fault
        self.held: set[int] = set()
        self.most = 0

    def start(self) -> "Future[int]":
        self.held = set()
        return _done(self._fault(set()) or self._capacity)

    def advance(self, numbers: Sequence[int]) -> "Future[ShardReport]":
        self.held |= set(numbers)
        self.most = max(self.most, len(self.held))
        error = self._fault(self.held)
        if error is not None:
            return _done(error)
        number = min(self.held)
        self.held.remove(number)
        return _done(ShardReport(number, Counts(1, 1, 1), None))


def _done(result: T | Exception) -> "Future[T]":
    future: Future[T] = Future()
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
    return future


class Spares:
    """A Crew that hands out `spares` in place of lost workers."""

    def __init__(self, *spares: Worker) -> None:
        self._spares = list(spares)
        self.dismissed = False

    def workers(self, job: ShardJob) -> Sequence[ShardWorker]:
        raise AssertionError("not asked")

    def replace(self, worker: ShardWorker) -> ShardWorker:
        return self._spares.pop(0)

    def finish(self) -> None:
        pass

    def dismiss(self) -> None:
        self.dismissed = True


def deal(count: int, workers: Sequence[Worker], crew: Spares) -> "Counter[int]":
    """How often each shard was published."""
    published: Counter[int] = Counter()
    Dealer(range(count), workers, crew).run(lambda report, _: published.update([report.number]))
    return published


def once(error: Exception, *, holding: int) -> Fault:
    """Raise `error` the first time that the worker holds shard `holding`."""
    left = [error]
    return lambda held: left.pop() if holding in held and left else None


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("number", [1, 3])
def test_every_shard_is_published_once(number: int, count: int) -> None:
    workers = [Worker(str(i), capacity=i + 1) for i in range(number)]
    assert deal(count, workers, Spares()) == Counter(range(count))
    assert all(worker.most <= i + 1 for i, worker in enumerate(workers))


def test_shards_of_an_engine_that_died_are_sampled_anew() -> None:
    workers = [Worker("0"), Worker("1", fault=once(EngineDied("gone"), holding=3))]
    assert deal(7, workers, Spares()) == Counter(range(7))


def test_a_shard_whose_engine_dies_twice_ends_the_stage() -> None:
    deadly: Fault = lambda held: EngineDied("out of memory") if 5 in held else None  # noqa: E731
    crew = Spares()
    with pytest.raises(EngineError, match=r"died again with shard 5: out of memory") as error:
        deal(7, [Worker("0", capacity=1, fault=deadly), Worker("1", capacity=1, fault=deadly)], crew)
    assert not isinstance(error.value, EngineDied)  # which a task would retry
    assert crew.dismissed


def test_a_lost_worker_is_replaced() -> None:
    lost = Worker("0", fault=once(WorkerLost("node down"), holding=1))
    spare = Worker("2")
    assert deal(9, [lost, Worker("1")], Spares(spare)) == Counter(range(9))
    assert spare.most


def test_a_shard_that_loses_every_worker_ends_the_stage() -> None:
    deadly: Fault = lambda held: WorkerLost("gone") if 0 in held else None  # noqa: E731
    with pytest.raises(EngineError, match=r"was lost again with shard 0"):
        deal(3, [Worker("0", fault=deadly)], Spares(*(Worker(str(i), fault=deadly) for i in range(9))))


def test_workers_that_never_start_end_the_stage() -> None:
    broken: Fault = lambda held: WorkerLost("no module")  # noqa: E731
    with pytest.raises(EngineError, match=r"lost again while starting: no module"):
        deal(3, [Worker("0", fault=broken)], Spares(*(Worker(str(i), fault=broken) for i in range(9))))


def test_others_go_on_when_there_is_no_place_for_a_worker(caplog: pytest.LogCaptureFixture) -> None:
    def nowhere() -> Worker:
        return Worker("2", fault=lambda held: NoPlace("no GPU is free"))

    lost = Worker("0", fault=once(WorkerLost("node down"), holding=1))
    assert deal(5, [lost, Worker("1")], Spares(nowhere())) == Counter(range(5))
    assert "1 go on" in caplog.text
    lost = Worker("0", fault=once(WorkerLost("node down"), holding=1))
    with pytest.raises(UserError, match="no GPU is free"):
        deal(5, [lost], Spares(nowhere()))


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("responses-*.parquet"))}


class InOneProcess(WatchedEngine):
    """One of several: transformers does not load models in two threads at a time."""

    def load(self, policy: Path) -> None:
        with verifying:
            super().load(policy)


def test_a_pool_publishes_the_bytes_of_one_engine(make_spec: MakeSpec) -> None:
    whole = run(make_spec("whole"), engine=WatchedEngine())
    engines = [InOneProcess(), InOneProcess()]
    spec = make_spec("pool")
    units: list[str] = []
    made = run(spec, lambda done, total, unit: units.append(f"{done}/{total} {unit}"), EnginePool(engines))
    assert shards(spec.folder) == shards(spec.folder.with_name("whole"))
    assert made.content == whole.content
    assert sorted(engines[0].sampled + engines[1].sampled) == [1, 3, 3]
    assert units[-1] == "7/7 prompts, 3/3 shards, 2 workers"
    assert made.summary["sampler_gap_max"] == whole.summary["sampler_gap_max"]


class Mortal(InOneProcess):
    """Dies the first time that it samples."""

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        if len(self.loaded) == 1:
            raise EngineDied("killed")
        return super().sample(requests, sampling)


def test_a_pool_survives_an_engine_that_dies(make_spec: MakeSpec) -> None:
    run(make_spec("whole"), engine=WatchedEngine())
    spec, mortal = make_spec("pool"), Mortal()
    run(spec, engine=EnginePool([mortal, InOneProcess()]))
    assert shards(spec.folder) == shards(spec.folder.with_name("whole"))
    assert len(mortal.loaded) == 2


class Backwards(TransformersEngine):
    """Samples several batches together, and completes the newest first."""

    def __init__(self) -> None:
        super().__init__(TransformersSettings(dtype="float32"))
        self.order: list[int] = []
        self.in_flight: list[int] = []

    def stream(self, sampling: SamplingSettings, in_flight: int) -> "Stack":
        self.in_flight.append(in_flight)
        return Stack(self, sampling)


class Stack:
    def __init__(self, engine: Backwards, sampling: SamplingSettings) -> None:
        self._engine, self._sampling = engine, sampling
        self._waiting: list[tuple[int, Sequence[Request]]] = []

    def submit(self, number: int, requests: Sequence[Request]) -> None:
        self._waiting.append((number, requests))

    def completed(self) -> tuple[int, list[list[Sample]]]:
        number, requests = self._waiting.pop()
        self._engine.order.append(number)
        return number, self._engine.sample(requests, self._sampling)


def test_each_shard_is_published_as_it_completes(make_spec: MakeSpec) -> None:
    whole = run(make_spec("whole"), engine=WatchedEngine())
    spec, engine = make_spec("in-flight", shards_in_flight=2), Backwards()
    made = run(spec, engine=engine)
    assert engine.order == [2, 1, 0]  # two in flight, and one that waits
    assert engine.in_flight == [2]
    assert shards(spec.folder) == shards(spec.folder.with_name("whole"))
    assert made.summary["sampler_gap_max"] == whole.summary["sampler_gap_max"]
    again = Backwards()
    run(make_spec("apart"), engine=again)
    assert again.in_flight == [1]  # on a CPU


def test_any_rows_of_the_prompts_are_read(make_spec: MakeSpec, tiny_policy: Path) -> None:
    import pyarrow.parquet as pq

    spec = make_spec()
    data = pq.read_table(spec.prompts.path)
    pq.write_table(data, spec.prompts.path, row_group_size=2)
    reader = PromptReader(spec, load_tokenizer(tiny_policy), 256)
    rows = [(name, ids.tolist()) for name, ids in reader.rows(0, 7)]
    assert [name for name, _ in rows] == data["prompt_id"].to_pylist()
    for start, stop in [(0, 3), (1, 2), (3, 6), (6, 7)]:
        assert [(name, ids.tolist()) for name, ids in reader.rows(start, stop)] == rows[start:stop]


def test_the_number_of_workers_is_not_part_of_the_key(make_spec: MakeSpec) -> None:
    one = make_spec("a", kind="vllm")
    assert one.key() == make_spec("a", kind="vllm", workers=2).key()
    assert one.key() != make_spec("a", kind="vllm", shards_in_flight=2).key()  # other rounding


def test_too_few_gpus_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with pytest.raises(UserError, match="2 workers of 2 GPUs need 4, and this machine has 3"):
        VllmSettings(workers=2, tensor_parallel=2).open()
    assert isinstance(VllmSettings(workers=3).open(), EnginePool)
    with pytest.raises(UserError, match="one engine of kind transformers"):
        TransformersSettings(workers=2).open()


def test_each_engine_sees_its_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices(None) == {}
    assert visible_devices(range(2, 4)) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert visible_devices([1, 2]) == {"CUDA_VISIBLE_DEVICES": "6,7"}
