"""Does the sampler say what the training forward says? The check behind every round's log-probabilities.

A sampler that was handed the wrong weights (vLLM 0.32 keeps the old head of a tied policy on a naive reload), another
chat template's ids or another dtype still writes fluent text; only its log-probabilities give it away.
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
    """The sampler's log-probabilities are not the policy's: the round's responses must not be trained on."""


@dataclass(frozen=True)
class Scored:
    """A response with the sampler's log-probability of each of its tokens, nats."""

    sequence: TokenSequence
    logprobs: Sequence[float]


@dataclass(frozen=True)
class Gap:
    """|sampler's - training forward's| log-probability, nats: over tokens, and per response."""

    maximum: float  # of any token
    mean: float  # over all tokens
    worst: float  # largest mean over one response's tokens


def default_tolerance(dtype: str) -> float:
    """Nats a token. Measured per-token means: 3e-7 in float32; 0.002 to 0.02 in bfloat16; a wrong head: 0.25 and up."""
    return 1e-3 if dtype == "float32" else 0.1


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` different indices below `count`, evenly spread."""
    wanted = min(count, wanted)
    return [i * count // wanted for i in range(wanted)]


def measure_gap(policy: Path, scored: Sequence[Scored], *, dtype: Dtype, trust_remote_code: bool = False) -> Gap:
    """Score `scored` (not empty) with the policy in `dtype` and compare."""
    model = load_policy(policy, dtype=dtype, device=_device(policy, dtype), trust_remote_code=trust_remote_code)
    gaps: list[np.ndarray] = [np.empty(0)] * len(scored)
    with torch.inference_mode():
        sequences = [entry.sequence for entry in scored]
        for batch in batches(sequences, _BATCH_TOKENS):
            for index, ours in zip(batch, token_logprobs(model, [sequences[i] for i in batch]), strict=True):
                theirs = np.asarray(scored[index].logprobs, dtype=np.float64)
                gaps[index] = np.abs(theirs - ours.double().cpu().numpy())
    unload(model)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    every = np.concatenate(gaps)
    return Gap(float(every.max()), float(every.mean()), float(max(gap.mean() for gap in gaps)))


def refuse_mismatch(gap: Gap, policy: Path, *, dtype: str, tolerance: float | None) -> None:
    """Raise SamplerMismatch when some response's mean gap per token is beyond the tolerance, or not a number.

    The mean over a response, not one token's gap: in half precision a single unlikely token may be off by tenths.
    """
    allowed = default_tolerance(dtype) if tolerance is None else tolerance
    if gap.worst <= allowed:
        return
    raise SamplerMismatch(
        f"the sampler's log-probabilities are not those of the policy in {policy}: off by {gap.worst:.3g} nats a token"
        f" in one response (max {gap.maximum:.3g}), allowed {allowed:g}.\n"
        "The round is refused: its responses may come from other weights.\n"
        "Run it again with a fresh engine (engine.between_stages=stop); if the gap stays, sample with"
        " engine=transformers, or, if it is rounding in half precision, use engine.dtype=float32"
        " or raise engine.verify_tolerance."
    )


def _device(policy: Path, dtype: str) -> str:
    """The GPU if the policy fits into what the engine left of it; else the CPU. The GPU branch has not been run."""
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.5 * weight_bytes(policy, dtype):
        return "cuda"
    return "cpu"
