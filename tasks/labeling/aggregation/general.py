"""General preferences: logits that may be intransitive (GPM and GPO, arXiv 2410.02197).

GPM scores a pair by unit embeddings in planes, antisymmetric by construction. Without a trained model, the logits of
a prompt's pairs are fitted directly: strengths explain the transitive part, and each pair may deviate from it.
"""

import numpy as np
from numpy.typing import ArrayLike

from storage.arrays import Floats
from tasks.labeling.aggregation.arrays import PairLogits, sigmoid
from tasks.labeling.aggregation.newton import maximise

_TOLERANCE = 1e-18


def general_preferences(wins: ArrayLike, *, prior_variance: float, cycle_variance: float) -> PairLogits:
    """Posterior logits g_ij = theta_i - theta_j + c_ij of every pair, given wins [P, K, K] (diagonal unused).

    theta ~ N(0, prior_variance), c ~ N(0, cycle_variance), all independent; votes are Bernoulli(sigmoid(g_ij)).
    As cycle_variance goes to 0 this becomes the ridge Bradley-Terry fit; with a large one each pair stands alone. Pairs
    without votes are predicted from the others. The logits maximise the posterior, whose curvature gives the errors.
    """
    counts = np.array(wins, dtype=np.float64)
    size = counts.shape[1]
    i, j = np.triu_indices(size, 1)
    design = np.zeros((len(i), size))
    design[np.arange(len(i)), i], design[np.arange(len(i)), j] = 1, -1
    prior = np.linalg.inv(prior_variance * design @ design.T + cycle_variance * np.eye(len(i)))
    won, lost = counts[:, i, j], counts[:, j, i]

    def value(g: Floats) -> Floats:
        likelihood = -won * np.logaddexp(0.0, -g) - lost * np.logaddexp(0.0, g)
        result: Floats = likelihood.sum(axis=1) - ((g @ prior) * g).sum(axis=1) / 2
        return result

    def derivatives(g: Floats) -> tuple[Floats, Floats]:
        p = sigmoid(g)
        weight = (won + lost) * p * (1 - p)
        return won - (won + lost) * p - g @ prior, prior + weight[:, :, None] * np.eye(len(i))

    tolerance = _TOLERANCE * (1 + counts.max(axis=(1, 2), initial=0.0))
    g, covariance = maximise(value, derivatives, np.zeros(won.shape), tolerance)
    logits, se = np.zeros_like(counts), np.zeros_like(counts)
    logits[:, i, j], logits[:, j, i] = g, -g
    se[:, i, j] = se[:, j, i] = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return PairLogits(logits, se)


def plane_scores(first: ArrayLike, second: ArrayLike, scale: ArrayLike = 1.0) -> Floats:
    """GPM's score s(first > second) = sum_b scale_b (v_2b w_2b+1 - v_2b+1 w_2b) of embeddings v, w [..., 2B].

    The preference is sigmoid(s / tau). `scale` [B], or one number: lambda of each plane. Raises ValueError for an odd
    number of dimensions, and for embeddings of different sizes.
    """
    v, w = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if v.shape[-1] % 2 or v.shape[-1] != w.shape[-1]:
        raise ValueError(f"embeddings must have the same, even number of dimensions: {v.shape}, {w.shape}")
    result: Floats = (np.asarray(scale) * (v[..., 0::2] * w[..., 1::2] - v[..., 1::2] * w[..., 0::2])).sum(axis=-1)
    return result


def average_rows(preferences: PairLogits, mask: ArrayLike | None = None) -> Floats:
    """Mean logit [P, K] of each response against all present ones, including itself with 0: GPO's target score."""
    present = np.isfinite(preferences.logit) if mask is None else np.asarray(mask, bool)[:, None, :]
    values = np.where(present, preferences.logit, 0.0)
    result: Floats = values.sum(axis=2) / np.maximum(present.sum(axis=2), 1)
    return result
