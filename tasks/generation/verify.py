"""Compare the sampler's log-probabilities with those of the training forward, in every round.

A sampler with wrong weights (after a naive reload vLLM 0.32 keeps the old output layer of a policy with tied
embeddings), with ids of another chat template or in another dtype still writes fluent text. Its log-probabilities show
the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from tasks.modeling.forwards import forwards
from tasks.modeling.load import Dtype, load_policy, unload
from tasks.modeling.logprobs import TokenSequence, token_logprobs
from tasks.modeling.memory import weight_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH_TOKENS = 8192  # padded tokens of all forwards at a time
_TOKENS = 256  # response tokens to verify, where there are as many
_OWN_TOKENS = 8  # a response of at least this many tokens is also tested by itself
_ROOM = 1.5  # GPU memory that the check needs, relative to the policy's weights
_ERRORS = 3.0  # standard errors by which a mean must be above the tolerance


class SamplerMismatch(Exception):
    """The sampler's log-probabilities are not the policy's. Do not train on its responses."""


@dataclass(frozen=True)
class Scored:
    """A response with the sampler's log-probability of each of its tokens, nats."""

    sequence: TokenSequence
    logprobs: Sequence[float]


@dataclass(frozen=True)
class Mean:
    """A mean over tokens and its standard error, nats."""

    value: float
    error: float

    def exceeds(self, allowed: float) -> bool:
        """Whether even the lower end of the mean's error bar is above `allowed`, or the mean is not a number."""
        return not self.value - _ERRORS * self.error <= allowed


@dataclass(frozen=True)
class Gap:
    """Absolute difference between the log-probabilities of the sampler and of the training forward, nats."""

    maximum: float  # of any token
    overall: Mean  # over all tokens; tokens of one response are a cluster
    worst: Mean | None  # of the responses of at least _OWN_TOKENS tokens, the one furthest above its error bar

    @classmethod
    def of(cls, gaps: Sequence[np.ndarray]) -> Self:
        """From the gaps of each response's tokens, float64 [tokens]."""
        own = [Mean(float(gap.mean()), float(gap.std(ddof=1)) / len(gap) ** 0.5) for gap in gaps
               if len(gap) >= _OWN_TOKENS]  # fmt: skip
        return cls(
            float(max(gap.max() for gap in gaps)),
            clustered_mean(gaps),
            max(own, key=lambda mean: mean.value - _ERRORS * mean.error, default=None),
        )


def clustered_mean(gaps: Sequence[np.ndarray]) -> Mean:
    """The mean over all tokens, with the standard error of a ratio of totals over responses (Cochran 1977, eq. 2.39).

    A single response has no such error: its tokens are taken as independent.
    """
    tokens = sum(len(gap) for gap in gaps)
    mean = float(sum(gap.sum() for gap in gaps) / tokens)
    clusters = gaps if len(gaps) > 1 else [gaps[0][at : at + 1] for at in range(tokens)]
    count = len(clusters)
    residuals = np.array([(cluster - mean).sum() for cluster in clusters])
    variance = count / (count - 1) * np.square(residuals).sum() if count > 1 else 0.0
    return Mean(mean, float(np.sqrt(variance)) / tokens)


def default_tolerance(dtype: str) -> float:
    """Nats per token. Measured means: 3e-7 in float32, 0.002 to 0.03 in bfloat16, >= 0.25 with wrong weights.

    In half precision a single unlikely token can be off by tenths, and so can the mean of a reply of a few tokens.
    """
    return 1e-3 if dtype == "float32" else 0.1


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` different indices below `count`, evenly spaced."""
    wanted = min(count, wanted)
    return [i * count // wanted for i in range(wanted)]


def choose(lengths: Sequence[int], wanted: int) -> list[int]:
    """Indices of the responses to verify: `wanted`, evenly spaced, and more while they have few tokens.

    lengths: tokens of every response. With short replies, `wanted` of them would say little.
    """
    chosen = spread(len(lengths), wanted)
    while len(chosen) < len(lengths) and sum(lengths[i] for i in chosen) < _TOKENS:
        chosen = spread(len(lengths), 2 * len(chosen))
    return chosen


def fits_on_gpu(policy: Path, dtype: str) -> bool:
    """Whether there is a GPU whose free memory holds the policy and its forward. Not run on a GPU."""
    return torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > _ROOM * weight_bytes(policy, dtype)


def measure_gap(policy: Path, scored: Sequence[Scored], *, dtype: Dtype, trust_remote_code: bool = False) -> Gap:
    """Score `scored` (not empty) with the policy in `dtype` and compare. On the GPU where it fits, else on the CPU."""
    device = "cuda" if fits_on_gpu(policy, dtype) else "cpu"
    model = load_policy(policy, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    gaps: list[np.ndarray] = [np.empty(0)] * len(scored)
    sequences = [entry.sequence for entry in scored]

    def score(copy: "PreTrainedModel", batch: list[int]) -> list[np.ndarray]:
        rows = token_logprobs(copy, [sequences[i] for i in batch])
        return [logprobs.double().cpu().numpy() for logprobs in rows]

    for batch, rows in forwards(model, [len(sequence) for sequence in sequences], _BATCH_TOKENS, score):
        for index, logprobs in zip(batch, rows, strict=True):
            gaps[index] = np.abs(np.asarray(scored[index].logprobs, dtype=np.float64) - logprobs)
    unload(model)
    return Gap.of(gaps)


def refuse_mismatch(gap: Gap, policy: Path, *, dtype: str, tolerance: float | None) -> None:
    """Raise SamplerMismatch if the mean gap per token is above the tolerance by more than its error, or not a number.

    Tested are the mean over all tokens and that of each longer response: one of several engines may be wrong.
    """
    allowed = default_tolerance(dtype) if tolerance is None else tolerance
    wrong = next((mean for mean in (gap.overall, gap.worst) if mean is not None and mean.exceeds(allowed)), None)
    if wrong is None:
        return
    over = "over all tokens" if wrong is gap.overall else "in one response"
    raise SamplerMismatch(
        f"the sampler's log-probabilities are not those of the policy in {policy}: {over} they differ by"
        f" {wrong.value:.3g} ± {wrong.error:.2g} nats per token (largest of any token: {gap.maximum:.3g};"
        f" allowed: {allowed:g}).\n"
        "The responses are not used: the sampler may have other weights than the policy.\n"
        "Run again with a new engine (engine.between_stages=stop). If the gap stays, sample with engine=transformers;"
        " if it is rounding in half precision, set engine.dtype=float32 or raise engine.verify_tolerance."
    )
