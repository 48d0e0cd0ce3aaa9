"""What an engine does between stages: `auto` by machine, and the calls of vLLM's level 2 sleep, without a GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tasks.child_process import Done
from tasks.generation import shards, verify
from tasks.generation.engines import EngineSettings
from tasks.generation.engines.transformers import TransformersSettings
from tasks.generation.engines.vllm import VllmSettings
from tasks.generation.settings import SamplingSettings
from tasks.generation.shards import ShardSampler
from tasks.generation.vllm_worker import Sleep, Wake, Worker
from tasks.training.settings import OptimizationSettings


@pytest.mark.parametrize(
    ("gpu", "setting", "expected"),
    [
        (True, "auto", "sleep"),
        (False, "auto", "keep"),
        (True, "keep", "keep"),
        (False, "stop", "stop"),
    ],
)
def test_auto_sleeps_on_a_gpu_and_keeps_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, setting: Any, expected: str
) -> None:
    monkeypatch.setattr("tasks.generation.engines.has_gpu", lambda: gpu)
    for kind in (VllmSettings, TransformersSettings):
        settings: EngineSettings = kind(between_stages=setting)
        assert settings.while_paused() == expected


@pytest.mark.parametrize(
    ("gpu", "settings", "expected"),
    [
        (True, OptimizationSettings(), True),
        (False, OptimizationSettings(), False),
        (True, OptimizationSettings(device="cpu"), False),
        (True, OptimizationSettings(launch="inline"), False),
        (False, OptimizationSettings(launch="process"), True),
        (False, OptimizationSettings(processes=2), True),
    ],
)
def test_training_has_a_process_of_its_own_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, settings: OptimizationSettings, expected: bool
) -> None:
    monkeypatch.setattr("tasks.training.settings.has_gpu", lambda: gpu)
    assert settings.in_child() is expected


class RecordingLlm:
    """Records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> bool:
        self.calls.append(f"wake_up {tags}")
        return tags == ["kv_cache"]

    def collective_rpc(self, name: str, args: tuple[str, ...]) -> None:
        self.calls.append(f"{name} {args[0]}")


def test_weights_are_read_before_the_kv_cache_wakes() -> None:
    worker: Any = Worker()
    worker._llm = RecordingLlm()
    assert worker.answer(Sleep()) == Done()
    assert worker.answer(Wake(policy="policy")) == Done()
    assert worker._llm.calls == ["sleep 2", "wake_up ['weights']", "reload_policy policy", "wake_up ['kv_cache']"]


class PausedEngine:
    """Records that it was paused and loaded."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> None:
        self.calls.append("pause")

    def load(self, policy: Path) -> None:
        self.calls.append("load")


@pytest.mark.parametrize(
    ("gpu", "fits", "expected"), [(True, False, ["pause", "load"]), (True, True, []), (False, False, [])]
)
def test_the_check_of_a_sampler_has_a_crowded_gpu_to_itself(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, fits: bool, expected: list[str]
) -> None:
    engine = PausedEngine()
    measured: list[list[str]] = []
    monkeypatch.setattr(shards, "has_gpu", lambda: gpu)
    monkeypatch.setattr(verify, "fits_on_gpu", lambda *_: fits)
    monkeypatch.setattr(verify, "measure_gap", lambda *_, **__: measured.append(list(engine.calls)))
    monkeypatch.setattr(verify, "refuse_mismatch", lambda *_, **__: None)
    job: Any = SimpleNamespace(spec=GenerateLike())
    row = {"prompt_ids": [1], "response_ids": [2, 3], "logprobs": [-1.0, -1.0]}
    sampler: Any = ShardSampler(job, engine)  # type: ignore[arg-type]  # the calls that the check makes
    sampler._verify(pa.Table.from_pylist([row]))
    assert engine.calls == expected
    assert measured == [expected[:1]]


class GenerateLike:
    """The fields of a GenerateSpec that the check reads."""

    mixture = None
    reference = None

    class settings:
        engine = VllmSettings(dtype="float32")
        sampling = SamplingSettings()
        trust_remote_code = False

    class policy:
        path = Path("policy")
