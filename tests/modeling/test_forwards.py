"""Forwards side by side: the results of one after the other, within the bounds on tokens and threads."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tasks.modeling.forwards import CPU_TOKENS, batched, forwards
from tasks.modeling.head import output_layer, twin
from tasks.modeling.logprobs import TokenSequence, sequence_logprobs, token_logprobs
from tests.modeling.architectures import VOCABULARY, build

THREADS = 3


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    assert torch.get_num_threads() == THREADS
    torch.set_num_threads(before)


def small(name: str = "llama") -> PreTrainedModel:
    untyped: Any = build(name)
    model: PreTrainedModel = untyped.to(torch.float32)
    return model


def sequences(count: int = 40) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 60, size=(count, 2)).tolist()
    return [TokenSequence(*(rng.integers(VOCABULARY, size=size).tolist() for size in row)) for row in sizes]


class Watch:
    """Work that notes how many run at a time, in which threads, with which models, and with how many torch threads."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.threads: set[int] = set()
        self.models: set[int] = set()
        self.inner: set[int] = set()
        self.lock = threading.Lock()

    def __call__(self, model: PreTrainedModel, batch: list[int]) -> int:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(threading.get_ident())
            self.models.add(id(model))
            self.inner.add(torch.get_num_threads())
        assert torch.is_inference_mode_enabled()
        time.sleep(0.01)
        with self.lock:
            self.running -= 1
        return len(batch)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gemma2", "mistral-window"])
def test_side_by_side_is_one_after_the_other(name: str) -> None:
    model, rows = small(name), sequences()
    expected = np.zeros(len(rows))
    with torch.inference_mode():
        for batch in batched([len(row) for row in rows], CPU_TOKENS):
            for i, logprobs in zip(batch, token_logprobs(model, [rows[i] for i in batch]), strict=True):
                expected[i] = logprobs.double().sum()
    np.testing.assert_allclose(sequence_logprobs(model, rows, tokens=8192), expected, atol=1e-5)
    first, again = (sequence_logprobs(model, rows, tokens=8192) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_batches_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [len(row) for row in sequences()]
    several = [batch for batch, _ in forwards(small(), lengths, 8192, Watch())]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert [batch for batch, _ in forwards(small(), lengths, 8192, Watch())] == several
    monkeypatch.undo()
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= CPU_TOKENS for batch in several)


@pytest.mark.parametrize(
    ("lengths", "tokens", "at_a_time"),
    [
        ([20] * 400, 8192, THREADS),
        ([20] * 400, 2 * CPU_TOKENS, 2),  # their tokens together are at most `tokens`
        ([20] * 400, 100, 1),
        ([700] * 4, 1500, 2),  # a sequence longer than a forward on a CPU
        ([20], 8192, 1),
    ],
)
def test_tokens_and_threads_bound_the_forwards_at_a_time(lengths: list[int], tokens: int, at_a_time: int) -> None:
    watch = Watch()
    batches = [batch for batch, size in forwards(small(), lengths, tokens, watch) if size == len(batch)]
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert watch.most == len(watch.models) == at_a_time
    assert watch.inner == {THREADS // at_a_time}
    assert (threading.get_ident() in watch.threads) == (at_a_time == 1)


def test_autocast_holds_in_every_thread() -> None:
    def casts(model: PreTrainedModel, batch: list[int]) -> tuple[bool, torch.dtype]:
        return torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {seen for _, seen in forwards(small(), [500] * 6, 8192, casts)} == {(True, torch.bfloat16)}
    assert {seen[0] for _, seen in forwards(small(), [500] * 6, 8192, casts)} == {False}


def test_an_error_ends_the_forwards_and_gives_the_threads_back() -> None:
    done = []

    def fails(model: PreTrainedModel, batch: list[int]) -> None:
        done.append(batch)
        time.sleep(0.01)
        if len(done) == 4:
            raise RuntimeError("the fourth")

    with pytest.raises(RuntimeError, match="the fourth"):
        list(forwards(small(), [500] * 200, 8192, fails))
    assert len(done) < 20


def test_forwards_between_two_results_of_forwards() -> None:
    """Neither waits for the other, and the threads are given back in whichever order they end."""
    outer = forwards(small(), [500] * 6, 8192, Watch())
    next(outer)
    assert sum(size for _, size in forwards(small(), [500] * 6, 8192, Watch())) == 6
    unfinished = forwards(small(), [500] * 6, 8192, Watch())
    next(unfinished)
    assert sum(size for _, size in outer) == 5
    del unfinished


def test_no_sequence_is_no_forward() -> None:
    assert list(forwards(small(), [], 8192, Watch())) == []


@pytest.mark.parametrize("name", ["llama-tied", "gemma2"])
def test_a_twin_shares_the_parameters_and_nothing_else(name: str) -> None:
    model = small(name)
    copy = twin(model)
    assert dict(copy.named_parameters()) == dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    assert buffers
    assert all(buffer is not buffers[key] for key, buffer in copy.named_buffers())
    assert copy.config is not model.config
    layer = output_layer(copy)
    assert (layer is None) == (output_layer(model) is None)
    assert layer is None or layer is copy.get_output_embeddings()
