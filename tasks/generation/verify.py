"""Compare the sampler's log-probabilities with those of the training forward, in every round.

A sampler with wrong weights (after a naive reload vLLM 0.32 keeps the old output layer of a policy with tied
embeddings), with ids of another chat template or in another dtype still writes fluent text. Its log-probabilities show
the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tasks.modeling.load import Dtype, load_policy, unload
from tasks.modeling.logprobs import TokenSequence, batches, token_logprobs
from tasks.modeling.memory import weight_bytes

_BATCH_TOKENS = 8192  # padded tokens in one forward


class SamplerMismatch(Exception):
    """The sampler's log-probabilities are not the policy's. Do not train on its responses."""


@dataclass(frozen=True)
class Scored:
    """A response with the sampler's log-probability of each of its tokens, nats."""

    sequence: TokenSequence
    logprobs: Sequence[float]


@dataclass(frozen=True)
class Gap:
    """Absolute difference between the log-probabilities of the sampler and of the training forward, nats."""

    maximum: float  # of any token
    mean: float  # over all tokens
    worst: float  # largest mean over one response's tokens


def default_tolerance(dtype: str) -> float:
    """Nats per token. Measured means: 3e-7 in float32, 0.002 to 0.02 in bfloat16, >= 0.25 with wrong weights."""
    return 1e-3 if dtype == "float32" else 0.1


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` different indices below `count`, evenly spaced."""
    wanted = min(count, wanted)
    return [i * count // wanted for i in range(wanted)]


def measure_gap(policy: Path, scored: Sequence[Scored], *, dtype: Dtype, trust_remote_code: bool = False) -> Gap:
    """Score `scored` (not empty) with the policy in `dtype` and compare."""
    model = load_policy(policy, dtype=dtype, device=_device(policy, dtype), trust_remote_code=trust_remote_code)
    gaps: list[np.ndarray] = [np.empty(0)] * len(scored)
    with torch.inference_mode():
        sequences = [entry.sequence for entry in scored]
        for batch in batches(sequences, _BATCH_TOKENS):
            for index, logprobs in zip(batch, token_logprobs(model, [sequences[i] for i in batch]), strict=True):
                sampled = np.asarray(scored[index].logprobs, dtype=np.float64)
                gaps[index] = np.abs(sampled - logprobs.double().cpu().numpy())
    unload(model)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    all_gaps = np.concatenate(gaps)
    return Gap(float(all_gaps.max()), float(all_gaps.mean()), float(max(gap.mean() for gap in gaps)))


def refuse_mismatch(gap: Gap, policy: Path, *, dtype: str, tolerance: float | None) -> None:
    """Raise SamplerMismatch if any response's mean gap per token exceeds the tolerance, or is not a number.

    The mean over a response is used because in half precision the gap of a single unlikely token can be tenths.
    """
    allowed = default_tolerance(dtype) if tolerance is None else tolerance
    if gap.worst <= allowed:
        return
    raise SamplerMismatch(
        f"the sampler's log-probabilities are not those of the policy in {policy}: in one response they differ by"
        f" {gap.worst:.3g} nats per token (largest of any token: {gap.maximum:.3g}; allowed: {allowed:g}).\n"
        "The responses are not used: the sampler may have other weights than the policy.\n"
        "Run again with a new engine (engine.between_stages=stop). If the gap stays, sample with engine=transformers;"
        " if it is rounding in half precision, set engine.dtype=float32 or raise engine.verify_tolerance."
    )


def _device(policy: Path, dtype: str) -> str:
    """cuda if the policy fits into the memory that the engine left free, else cpu. The GPU branch has not been run."""
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.5 * weight_bytes(policy, dtype):
        return "cuda"
    return "cpu"
