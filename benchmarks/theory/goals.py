"""The policy each method aims at, computed without its loss: in closed form, by bisection, or as a fixed point.

Everything is [X, K] logits of a policy; P is the preference [X, K, K] of the first response over the second.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.tabular.world import softmax
from storage.arrays import Floats


def against(preference: Floats, policy: Floats) -> Floats:
    """P(y > policy) of each response, [X, K]."""
    result: Floats = np.einsum("xij,xj->xi", preference, policy)
    return result


def multiplicative(initial: Floats, preference: Floats, beta: float, rounds: int) -> Floats:
    """`rounds` steps of pi_t+1 ~ pi_t exp(P(y > pi_t) / beta), which SPPO approximates."""
    logits = initial
    for _ in range(rounds):
        logits = logits + against(preference, softmax(logits)) / beta
    return logits


def regularised_nash(initial: Floats, preference: Floats, tau: float, mixture: float = 0.0) -> Floats:
    """pi ~ pi_0 exp(P(y > mu) / tau) with mu ~ pi^(1 - mixture) pi_0^mixture.

    With mixture 0 it is the Nash policy of the game in which both players pay tau times their divergence from pi_0.
    """
    logits = initial
    for _ in range(5000):
        mu = softmax((1 - mixture) * logits + mixture * initial)
        # Half steps: whole steps cycle where tau is small.
        logits = 0.5 * logits + 0.5 * (initial + against(preference, mu) / tau)
    return logits


def other_divergence(initial: Floats, reward: Floats, beta: float, ratio: Callable[[Floats], Floats]) -> Floats:
    """The optimum of expected reward less beta times an f-divergence: f'(pi / pi_0) = (r - lambda) / beta.

    `ratio` turns a negative f' into log(pi / pi_0) and grows from -inf to inf; lambda is found by bisection.
    """
    base = initial - np.log(np.exp(initial).sum(axis=1, keepdims=True))
    top = reward.max(axis=1, keepdims=True)
    low, high = np.full_like(top, -60.0), np.full_like(top, 60.0)  # of log(lambda - max r)
    for _ in range(200):
        middle = (low + high) / 2
        slope = (reward - top - np.exp(middle)) / beta
        total = np.exp(base + ratio(slope)).sum(axis=1, keepdims=True)
        low, high = np.where(total > 1, middle, low), np.where(total > 1, high, middle)
    logits: Floats = base + ratio((reward - top - np.exp(low)) / beta)
    return logits


def per_token(initial: Floats, reward: Floats, beta: float, lengths: Floats) -> Floats:
    """The policy whose log-ratios per token differ as r / beta does: h = |y| (r + lambda) / beta, normalised."""
    base = initial - np.log(np.exp(initial).sum(axis=1, keepdims=True))
    low, high = np.full((len(initial), 1), -50.0), np.full((len(initial), 1), 50.0)
    for _ in range(200):
        middle = (low + high) / 2
        with np.errstate(over="ignore"):
            total = np.exp(base + lengths * (reward + middle) / beta).sum(axis=1, keepdims=True)
        low, high = np.where(total < 1, middle, low), np.where(total < 1, high, middle)
    logits: Floats = base + lengths * (reward + low) / beta
    return logits
