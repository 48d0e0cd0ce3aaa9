"""KL against the sum over every reply there is, on models with five tokens."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from storage.arrays import Floats
from tasks.evaluation.divergence import divergence, policy_logprobs
from tasks.evaluation.settings import MetricsSettings
from tasks.modeling.logprobs import TokenSequence

VOCABULARY, END, LIMIT = 5, 0, 3
PROMPT = [3, 1, 4]
SETTINGS = MetricsSettings(divergence_tokens=2048, device="cpu")


def save_model(folder: Path, seed: int) -> Path:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16,
        initializer_range=0.4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("five-tokens")
    return save_model(root / "policy", 1), save_model(root / "initial", 2)


def replies() -> list[list[int]]:
    """Every reply: up to the first end token, or LIMIT tokens without one."""
    distinct = set()
    for tokens in itertools.product(range(VOCABULARY), repeat=LIMIT):
        stop = tokens.index(END) + 1 if END in tokens else LIMIT
        distinct.add(tokens[:stop])
    return [list(reply) for reply in sorted(distinct)]


def log_ratios(sequences: list[TokenSequence], models: tuple[Path, Path]) -> Floats:
    policy, initial = (policy_logprobs(sequences, policy=folder, settings=SETTINGS) for folder in models)
    return policy - initial


def plain_logprobs(folder: Path) -> Floats:
    """log p of every reply: one at a time, no padding, float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    sums = []
    for reply in replies():
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([PROMPT + reply])).logits[0].log_softmax(-1)
        sums.append(sum(logprobs[len(PROMPT) - 1 + i, token].item() for i, token in enumerate(reply)))
    return np.array(sums)


@pytest.fixture(scope="module")
def exact(models: tuple[Path, Path]) -> tuple[Floats, Floats]:
    """Probability of every reply under the policy, and its log-ratio, by plain float64 forwards."""
    policy, initial = map(plain_logprobs, models)
    assert np.exp(policy).sum() == pytest.approx(1, abs=1e-12)
    return np.exp(policy), policy - initial


def test_log_ratios_are_those_of_plain_forwards(models: tuple[Path, Path], exact: tuple[Floats, Floats]) -> None:
    ratios = log_ratios([TokenSequence(PROMPT, reply) for reply in replies()], models)
    np.testing.assert_allclose(ratios, exact[1], atol=2e-5)
    assert np.abs(exact[1]).max() > 0.5  # the two policies do differ


def test_estimate_from_samples_meets_the_enumerated_kl(models: tuple[Path, Path], exact: tuple[Floats, Floats]) -> None:
    probabilities, ratios = exact
    kl = float(probabilities @ ratios)
    drawn = np.random.default_rng(0).choice(len(probabilities), size=4000, p=probabilities / probabilities.sum())
    sampled = [TokenSequence(PROMPT, replies()[i]) for i in drawn]
    estimate = divergence(
        log_ratios(sampled, models),
        [len(sequence.response) for sequence in sampled],
        [f"p{i}" for i in range(len(sampled))],
    )
    assert kl > 0.1
    assert estimate.se is not None
    assert estimate.se < 0.1 * kl
    assert abs(estimate.mean - kl) < 4 * estimate.se
    tokens = sum(len(sequence.response) for sequence in sampled)
    assert estimate.per_token == pytest.approx(estimate.mean * len(sampled) / tokens)


def test_standard_error_is_that_of_the_prompt_means_when_replies_are_equally_many() -> None:
    rng = np.random.default_rng(1)
    ratios = rng.normal(size=(12, 3)) + rng.normal(size=(12, 1))
    estimate = divergence(ratios.ravel(), [5] * 36, [f"p{i}" for i in range(12) for _ in range(3)])
    assert estimate.se == pytest.approx(ratios.mean(1).std(ddof=1) / np.sqrt(12))


def test_standard_error_is_the_spread_of_the_estimate() -> None:
    rng = np.random.default_rng(2)
    means, errors = [], []
    for _ in range(1500):
        counts = rng.integers(1, 6, size=60)
        names = np.repeat([f"p{i}" for i in range(60)], counts)
        ratios = np.repeat(rng.normal(size=60), counts) + 0.3 * rng.normal(size=counts.sum())
        estimate = divergence(ratios, [1] * len(ratios), list(names))
        assert estimate.se is not None
        means.append(estimate.mean)
        errors.append(estimate.se)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.08)


def test_one_prompt_has_no_standard_error() -> None:
    assert divergence(np.array([0.5, 1.5]), [1, 3], ["p", "p"]).se is None
    assert divergence(np.array([0.5, 1.5]), [1, 3], ["p", "p"]).per_token == 0.5


def test_progress_counts_replies(models: tuple[Path, Path]) -> None:
    calls: list[tuple[int, int]] = []
    policy_logprobs(
        [TokenSequence(PROMPT, reply) for reply in replies()],
        policy=models[0],
        settings=SETTINGS,
        progress=lambda done, total, unit: calls.append((done, total)),
    )
    assert calls[-1] == (len(replies()), len(replies()))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
