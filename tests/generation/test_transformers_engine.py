"""The transformers engine against brute force: one unpadded forward without a cache for every token."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.generation.engines import Request, Sample
from tasks.generation.engines.transformers import TransformersEngine, TransformersSettings, choose
from tasks.generation.settings import SamplingSettings
from tasks.modeling.load import load_policy, load_tokenizer

SAMPLING = SamplingSettings(responses=3, max_tokens=16)


@pytest.fixture(scope="module")
def engine(tiny_policy: Path) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(TransformersSettings(dtype="float32"))
    engine.load(tiny_policy)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def drawn(engine: TransformersEngine, requests: list[Request]) -> list[list[Sample]]:
    return engine.sample(requests, SAMPLING)


def brute_force(policy: Path, ids: list[int]) -> torch.Tensor:
    """Log-probabilities [vocabulary] of the token after `ids`."""
    with torch.inference_mode():
        logits: torch.Tensor = load_policy(policy, dtype="float32", device="cpu")(torch.tensor([ids])).logits
    return logits[0, -1].log_softmax(-1)


def test_logprobs_are_those_of_a_plain_forward(
    tiny_policy: Path, requests: list[Request], drawn: list[list[Sample]]
) -> None:
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    for request, samples in zip(requests, drawn, strict=True):
        for sample in samples:
            with torch.inference_mode():
                logits = model(torch.tensor([request.prompt_ids + sample.token_ids])).logits[0]
            predicting = logits[len(request.prompt_ids) - 1 : -1].log_softmax(-1)
            truth = predicting.gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(sample.logprobs), truth, atol=5e-5, rtol=0)


def test_temperature_changes_the_draw_but_not_the_logprobs_scale(
    engine: TransformersEngine, tiny_policy: Path, requests: list[Request]
) -> None:
    (sample,) = engine.sample(requests[:1], SamplingSettings(responses=1, max_tokens=1, temperature=0.3))[0]
    truth = brute_force(tiny_policy, requests[0].prompt_ids)[sample.token_ids[0]]
    assert sample.logprobs[0] == pytest.approx(truth.item(), abs=5e-5)


@pytest.mark.parametrize("narrow", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}])
def test_narrowest_sampling_is_greedy(
    engine: TransformersEngine, tiny_policy: Path, requests: list[Request], narrow: dict[str, float]
) -> None:
    sampling = SamplingSettings.model_validate({"responses": 1, "max_tokens": 8} | narrow)
    for request, (sample,) in zip(requests[:3], engine.sample(requests[:3], sampling), strict=True):
        ids = list(request.prompt_ids)
        for token in sample.token_ids:
            assert token == brute_force(tiny_policy, ids).argmax().item()
            ids.append(token)


def test_a_response_does_not_depend_on_its_batch(
    engine: TransformersEngine, requests: list[Request], drawn: list[list[Sample]]
) -> None:
    alone = engine.sample([requests[4]], SAMPLING)[0]
    fewer = engine.sample([requests[4]], SamplingSettings(responses=2, max_tokens=16))[0]
    assert [sample.token_ids for sample in alone] == [sample.token_ids for sample in drawn[4]]
    assert [sample.token_ids for sample in fewer] == [sample.token_ids for sample in drawn[4][:2]]


def test_responses_and_seeds_differ(engine: TransformersEngine, requests: list[Request]) -> None:
    first = engine.sample([requests[0]], SAMPLING)[0]
    other = engine.sample([Request(requests[0].prompt_ids, seed=99)], SAMPLING)[0]
    assert len({tuple(sample.token_ids) for sample in first + other}) == 6


def test_an_end_token_ends_a_response(engine: TransformersEngine, requests: list[Request], tiny_policy: Path) -> None:
    end = load_tokenizer(tiny_policy).eos_token_id
    samples = [s for row in engine.sample(requests, SamplingSettings(responses=16, max_tokens=32)) for s in row]
    stopped = [sample for sample in samples if sample.finish_reason == "stop"]
    assert 0 < len(stopped) < len(samples)
    assert all(s.token_ids[-1] == end and end not in s.token_ids[:-1] for s in stopped)
    assert all(len(s.token_ids) == 32 and end not in s.token_ids for s in samples if s.finish_reason == "length")


def test_a_stop_string_ends_a_response(engine: TransformersEngine, requests: list[Request], tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    (whole,) = engine.sample(requests[:1], SamplingSettings(responses=1, max_tokens=16))[0]
    stop = next(t for t in map(str, map(tokenizer.decode, whole.token_ids[5:])) if t.isascii() and t.strip())
    (cut,) = engine.sample(requests[:1], SamplingSettings(responses=1, max_tokens=16, stop=[stop]))[0]
    assert cut.finish_reason == "stop"
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert stop in tokenizer.decode(cut.token_ids)
    assert stop not in tokenizer.decode(cut.token_ids[:-1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_k": 3, "top_p": 0.7}, [4 / 7, 3 / 7, 0, 0]),
    ],
)
def test_choose_draws_from_the_distribution(options: dict[str, float], expected: list[float]) -> None:
    grid = (torch.arange(6300, dtype=torch.float64) + 0.5) / 6300
    order = torch.tensor([2, 0, 3, 1])  # the vocabulary is not sorted by probability
    logprobs = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()[order].expand(len(grid), 4)
    chosen = choose(logprobs, grid, SamplingSettings.model_validate(options))
    frequencies = torch.bincount(chosen, minlength=4) / len(grid)
    torch.testing.assert_close(frequencies, torch.tensor(expected)[order], atol=3e-4, rtol=0)
