"""Divergence of a policy from the initial one: KL(pi || pi_0) over whole replies, nats, on the policy's own replies.

    KL(pi || pi_0) = E_{y ~ pi} [ sum_t log pi(y_t | x, y_<t) - log pi_0(y_t | x, y_<t) ]

The mean over replies drawn from pi is unbiased; the log-ratio of a single reply can be negative. Truncated replies
count up to the token limit, so this is the divergence of the generated tokens. Both log-probabilities come from the
same forward as in training (weights in float32, autocast to `dtype`), not from the sampler.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from storage.arrays import Floats
from storage.stage import Progress, silent
from tasks.evaluation.settings import MetricsSettings
from tasks.modeling.load import autocast, load_policy, resolve_device, unload

if TYPE_CHECKING:
    from tasks.modeling.logprobs import TokenSequence


@dataclass(frozen=True)
class Divergence:
    """mean: nats a reply; se: standard error over prompts (None with one prompt); per_token: nats a token."""

    mean: float
    se: float | None
    per_token: float


NONE = Divergence(mean=0.0, se=0.0, per_token=0.0)  # of a policy from itself


def divergence(log_ratios: Floats, lengths: Sequence[int], prompts: Sequence[str]) -> Divergence:
    """The estimate from log_ratios [n] (nats, summed over a reply), reply lengths [n] (tokens) and prompts [n].

    The standard error treats the replies to a prompt as a cluster: it is the linearised variance of a ratio of prompt
    totals (Cochran 1977, eq. 2.39). With equally many replies a prompt, this is the variance of the prompts' means.
    """
    mean = float(log_ratios.mean())
    _, of_prompt = np.unique(np.asarray(prompts), return_inverse=True)
    residuals = np.bincount(of_prompt, weights=log_ratios - mean)
    count = len(residuals)
    se = None
    if count > 1:
        se = float(np.sqrt(count / (count - 1) * np.square(residuals).sum()) / len(log_ratios))
    return Divergence(mean=mean, se=se, per_token=float(log_ratios.sum() / max(sum(lengths), 1)))


def policy_logprobs(
    sequences: "Sequence[TokenSequence]", *, policy: Path, settings: MetricsSettings, progress: Progress = silent
) -> Floats:
    """log pi(y|x) of each sequence under the policy in folder `policy`, float64 [n], nats."""
    from tasks.modeling.logprobs import sequence_logprobs  # imports torch, which reading a configuration must not

    device = resolve_device(settings.device)
    model = load_policy(policy, dtype="float32", device=device, trust_remote_code=settings.trust_remote_code)
    with autocast(device, settings.dtype):
        sums = sequence_logprobs(model, sequences, tokens=settings.divergence_tokens, progress=progress)
    unload(model)
    return sums
