"""Replicas: how prompts are split and samples merged, with engines that only record their calls."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from storage.errors import UserError
from tasks.generation.engines import EngineDied, Request, Sample
from tasks.generation.engines.transformers import TransformersSettings
from tasks.generation.engines.vllm import VllmSettings
from tasks.generation.replicas import Replicas
from tasks.generation.settings import SamplingSettings
from tasks.modeling.vllm_process import visible_devices
from tests.generation.conftest import MakeSpec

SAMPLING = SamplingSettings(responses=2)


class Echo:
    """Its samples hold prompt, seed and index. With `barrier`, `sample` waits until all engines are in it."""

    def __init__(self, barrier: threading.Barrier | None = None, *, dies: bool = False) -> None:
        self.calls: list[str] = []
        self.received: list[Request] = []
        self._barrier, self._dies = barrier, dies

    def check(self, policy: Path) -> None:
        self.calls.append("check")

    def prepare(self, policy: Path) -> None:
        self.calls.append("prepare")

    def load(self, policy: Path) -> None:
        self.calls.append(f"load {policy}")

    def pause(self) -> None:
        self.calls.append("pause")

    def close(self) -> None:
        self.calls.append("close")

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        if self._barrier is not None:
            self._barrier.wait(10)
        if self._dies:
            raise EngineDied("gone")
        self.received += requests
        return [
            [Sample([*request.prompt_ids, request.seed, index], [], "stop") for index in range(sampling.responses)]
            for request in requests
        ]


def requests(count: int) -> list[Request]:
    return [Request([number], seed=100 + number) for number in range(count)]


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_samples_come_back_in_the_order_of_the_requests(replicas: int, count: int) -> None:
    engines = [Echo() for _ in range(replicas)]
    assert Replicas(engines).sample(requests(count), SAMPLING) == Echo().sample(requests(count), SAMPLING)
    shares = [len(engine.received) for engine in engines]
    assert max(shares) - min(shares) <= 1


def test_replicas_work_in_parallel_and_all_get_every_call() -> None:
    barrier = threading.Barrier(3)
    engines = [Echo(barrier) for _ in range(3)]
    replicas, policy = Replicas(engines), Path("policy")
    replicas.check(policy)
    replicas.prepare(policy)
    replicas.load(policy)
    replicas.sample(requests(6), SAMPLING)  # times out if one waits for another
    replicas.pause()
    replicas.close()
    assert all(engine.calls == ["check", "prepare", "load policy", "pause", "close"] for engine in engines)


def test_the_death_of_one_replica_is_raised() -> None:
    with pytest.raises(EngineDied, match="gone"):
        Replicas([Echo(), Echo(dies=True)]).sample(requests(4), SAMPLING)


def test_too_few_gpus_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with pytest.raises(UserError, match="2 replicas of 2 GPUs need 4, and this machine has 3"):
        VllmSettings(replicas=2, tensor_parallel=2).open()
    assert isinstance(VllmSettings(replicas=3).open(), Replicas)


def test_only_vllm_has_replicas() -> None:
    with pytest.raises(ValidationError, match=r"engine\.kind=vllm"):
        TransformersSettings(replicas=2)


def test_each_replica_sees_its_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices(None) == {}
    assert visible_devices(range(2, 4)) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert visible_devices([1, 2]) == {"CUDA_VISIBLE_DEVICES": "6,7"}


def test_more_replicas_are_another_key(make_spec: MakeSpec) -> None:
    """Several engines sample in other batches."""
    one, two = make_spec("a", kind="vllm"), make_spec("a", kind="vllm", replicas=2)
    assert one.key() != two.key()
