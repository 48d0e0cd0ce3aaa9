"""The real vLLM on this machine. One engine is shared by the tests, in file order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.generation.engines import EngineDied, Request, Sample
from tasks.generation.engines.transformers import TransformersEngine, TransformersSettings
from tasks.generation.engines.vllm import VllmEngine, VllmSettings
from tasks.generation.settings import SamplingSettings
from tasks.generation.stage import run
from tasks.generation.verify import Gap, Scored, measure_gap
from tasks.modeling.load import load_tokenizer
from tasks.modeling.logprobs import TokenSequence
from tests.generation.conftest import CPU_ENGINE, MakeSpec
from tests.test_processes import ROOT, group, wait_gone

pytestmark = pytest.mark.vllm

SETTINGS = VllmSettings(**CPU_ENGINE)
SAMPLING = SamplingSettings(responses=4, max_tokens=24)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    engine = VllmEngine(SETTINGS, log=tmp_path_factory.mktemp("vllm") / "engine.log")
    yield engine
    engine.close()


def gap_to(policy: Path, requests: list[Request], drawn: list[list[Sample]]) -> Gap:
    scored = [
        Scored(TokenSequence(request.prompt_ids, sample.token_ids), sample.logprobs)
        for request, samples in zip(requests, drawn, strict=True)
        for sample in samples
    ]
    return measure_gap(policy, scored, dtype="float32")


def ids(drawn: list[list[Sample]]) -> list[list[list[int]]]:
    return [[sample.token_ids for sample in samples] for samples in drawn]


def test_logprobs_agree_with_the_training_forward(
    engine: VllmEngine, tiny_policy: Path, make_policy: Callable[..., Path], requests: list[Request]
) -> None:
    # Prepared with another policy: `load` must replace its weights, in the same process.
    clock = time.monotonic()
    engine.prepare(make_policy(seed=1))
    assert time.monotonic() - clock < 1.5
    child = engine._child
    engine.prepare(tiny_policy)
    engine.load(tiny_policy)
    assert engine._child is child is not None
    drawn = engine.sample(requests, SAMPLING)
    assert [len(samples) for samples in drawn] == [4] * 6
    assert gap_to(tiny_policy, requests, drawn).maximum < 1e-4


def test_logprobs_are_raw_whatever_the_sampling(engine: VllmEngine, tiny_policy: Path, requests: list[Request]) -> None:
    sharp = SamplingSettings(responses=2, max_tokens=24, temperature=0.5, top_k=5, top_p=0.7)
    assert gap_to(tiny_policy, requests, engine.sample(requests, sharp)).maximum < 1e-4


def test_responses_of_a_prompt_differ_and_a_seed_repeats(engine: VllmEngine, requests: list[Request]) -> None:
    drawn = engine.sample(requests, SAMPLING)
    assert all(len({tuple(sample.token_ids) for sample in samples}) == 4 for samples in drawn)
    assert engine.sample(requests, SAMPLING) == drawn
    assert ids(engine.sample(requests[2:3], SAMPLING)) == ids(drawn[2:3])
    other = [Request(request.prompt_ids, request.seed + 17) for request in requests]
    assert ids(engine.sample(other, SAMPLING)) != ids(drawn)


def test_more_prompt_tokens_than_one_step_takes(engine: VllmEngine, requests: list[Request]) -> None:
    many = [Request(request.prompt_ids, seed=100 * i) for i, request in enumerate(requests * 12)]
    assert sum(len(request.prompt_ids) for request in many) * 4 > 4096
    drawn = engine.sample(many, SAMPLING)
    assert ids(engine.sample(many[-2:], SAMPLING)) == ids(drawn[-2:])


def test_both_engines_stop_alike(engine: VllmEngine, tiny_policy: Path, requests: list[Request]) -> None:
    slow = TransformersEngine(TransformersSettings(dtype="float32"))
    slow.load(tiny_policy)
    greedy = SamplingSettings(responses=1, max_tokens=24, temperature=0)
    plain = engine.sample(requests, greedy)
    assert ids(plain) == ids(slow.sample(requests, greedy))
    decode = load_tokenizer(tiny_policy).decode
    texts = [str(decode(token)) for token in plain[0][0].token_ids[4:]]
    stop = next(text for text in texts if text.isascii() and text.strip())
    cut = SamplingSettings(responses=1, max_tokens=24, temperature=0, stop=[stop])
    fast = engine.sample(requests, cut)
    assert [[(s.token_ids, s.finish_reason) for s in row] for row in fast] == [
        [(s.token_ids, s.finish_reason) for s in row] for row in slow.sample(requests, cut)
    ]
    assert fast[0][0].finish_reason == "stop"
    # With temperature 1 the engines sample different tokens, but an end token must always be the last one.
    end = load_tokenizer(tiny_policy).eos_token_id
    samples = [s for row in engine.sample(requests, SamplingSettings(responses=16, max_tokens=32)) for s in row]
    stopped = [s for s in samples if s.finish_reason == "stop"]
    assert stopped
    assert all(s.token_ids.index(end) == len(s.token_ids) - 1 and len(s.logprobs) == len(s.token_ids) for s in stopped)
    assert all(end not in s.token_ids for s in samples if s.finish_reason == "length")


def test_reload_of_a_tied_policy_renews_the_head_too(
    engine: VllmEngine, tiny_policy: Path, make_policy: Callable[..., Path], requests: list[Request]
) -> None:
    # A prompt longer than a cache block (128 tokens on a CPU): old keys and values must not be reused.
    requests = [*requests, Request(requests[1].prompt_ids * 6, seed=7)]
    first = engine.sample(requests, SAMPLING)
    other, child = make_policy(seed=1), engine._child
    engine.load(other)
    assert engine._child is child  # in place, not a new process
    drawn = engine.sample(requests, SAMPLING)
    assert gap_to(other, requests, drawn).maximum < 1e-4
    assert gap_to(tiny_policy, requests, drawn).overall.value > 0.5
    engine.load(tiny_policy)
    assert engine.sample(requests, SAMPLING) == first


def test_a_stage_has_the_same_bytes_when_resumed(engine: VllmEngine, make_spec: MakeSpec) -> None:
    whole, resumed = make_spec("whole", kind="vllm"), make_spec("resumed", kind="vllm")
    run(whole, engine=engine)
    manifest = run(resumed, engine=engine)
    lost = resumed.folder / manifest.files[1].path
    lost.unlink()
    run(resumed, engine=engine)
    for entry in manifest.files:
        assert (whole.folder / entry.path).read_bytes() == (resumed.folder / entry.path).read_bytes()


@pytest.mark.slow
def test_a_dead_worker_is_an_error_and_the_next_load_starts_anew(
    engine: VllmEngine, make_policy: Callable[..., Path], requests: list[Request]
) -> None:
    for seed in (0, 1):  # the second one into the running process, whose log then ends with that
        engine.load(make_policy(seed=seed, tied=True))
    assert engine._child is not None
    os.killpg(engine._child.pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match=r"by signal 9[\s\S]*Reloading"):
        engine.sample(requests, SAMPLING)
    engine.load(make_policy(seed=0, tied=False))
    child = engine._child
    for seed in (0, 1):  # just started, and reloaded in place
        policy = make_policy(seed=seed, tied=False)
        engine.load(policy)
        assert gap_to(policy, requests, engine.sample(requests, SAMPLING)).maximum < 1e-4
    assert engine._child is child


PARENT = """
import sys, threading, time
from pathlib import Path
from tasks.generation.engines.vllm import VllmEngine, VllmSettings
engine = VllmEngine(VllmSettings.model_validate_json(sys.argv[1]))
threading.Thread(target=engine.load, args=(Path(sys.argv[2]),), daemon=True).start()
while engine._child is None:
    time.sleep(0.05)
print(engine._child.pid, flush=True)
threading.Event().wait()
"""


def test_the_engine_dies_with_a_parent_that_is_killed(tiny_policy: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, SETTINGS.model_dump_json(), str(tiny_policy)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(3)  # during the import of vllm, when the watcher thread gets the GIL least often
    assert group(worker)
    parent.kill()
    parent.wait()
    assert wait_gone(worker)


def test_too_little_memory_is_refused_before_anything_starts(tiny_policy: Path) -> None:
    engine = VllmEngine(VllmSettings(**CPU_ENGINE | {"kv_cache_gib": 5000}))
    with pytest.raises(UserError, match=r"5000 GiB of KV cache") as refused:
        engine.load(tiny_policy)
    assert "lower engine.kv_cache_gib" in refused.value.remedy
    assert engine._child is None


@pytest.mark.slow
def test_a_cache_that_cannot_hold_the_context_is_explained(tiny_policy: Path) -> None:
    engine = VllmEngine(VllmSettings(**CPU_ENGINE | {"kv_cache_gib": 1e-4}))
    with pytest.raises(UserError, match="KV cache") as refused:
        engine.load(tiny_policy)
    assert "engine.max_model_len" in refused.value.remedy
    assert engine._child is None
