"""Many small logistic regressions with fractional labels at once: one fit for each row of weights."""

import numpy as np

from storage.arrays import Floats

_STEPS, _FEW = 60, 4
_CLOSE = 1e-7  # gradient at which a fit has converged, for each row of the design
_VARIANCE = 10.0  # of the coefficients' Gaussian prior, which keeps a fit finite when all labels are equal


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    low = np.exp(-np.abs(x))
    value: Floats = np.where(x >= 0, 1.0, low) / (1.0 + low)
    return value


def fit(design: Floats, labels: Floats, weights: Floats, *, variance: float = _VARIANCE) -> Floats:
    """Coefficients [r, k] of P(1) = sigmoid(design @ c), by Newton's method.

    design: [n, k]. labels: [n], in 0..1; a fraction is that share of outcome 1. weights: [r, n], one fit a row.
    Maximises the weighted log-likelihood with a prior N(0, variance) on every coefficient, which is concave.
    """
    # Resamples are similar to the whole sample: from its coefficients, most converge in a few cheap, plain steps.
    whole = _damped(design, labels, weights.mean(0, keepdims=True), variance)
    coefficients = np.repeat(whole, len(weights), axis=0)
    for _ in range(_FEW):
        slope, curve = _derivatives(coefficients, design, labels, weights, variance)
        unfinished = ~(np.abs(slope).max(1) < _CLOSE * len(labels))
        if not unfinished.any():
            break
        coefficients += np.linalg.solve(curve, slope[..., None])[..., 0]
    else:
        slope, _ = _derivatives(coefficients, design, labels, weights, variance)
        unfinished = ~(np.abs(slope).max(1) < _CLOSE * len(labels))
    if unfinished.any():
        coefficients[unfinished] = _damped(design, labels, weights[unfinished], variance)
    return coefficients


def _damped(design: Floats, labels: Floats, weights: Floats, variance: float) -> Floats:
    """Like `fit`, from 0; a step is halved while it would lower the objective."""
    coefficients = np.zeros((len(weights), design.shape[1]))
    value = _objective(coefficients, design, labels, weights, variance)
    for _ in range(_STEPS):
        slope, curve = _derivatives(coefficients, design, labels, weights, variance)
        if np.abs(slope).max() < _CLOSE * len(labels):
            break
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        for _ in range(30):
            reached = _objective(coefficients + step, design, labels, weights, variance)
            worse = reached < value - 1e-12 * np.abs(value)
            if not worse.any():
                break
            step[worse] /= 2
        coefficients, value = coefficients + step, reached
    return coefficients


def _derivatives(
    coefficients: Floats, design: Floats, labels: Floats, weights: Floats, variance: float
) -> tuple[Floats, Floats]:
    """Gradient [r, k] of the objective, and minus its Hessian [r, k, k]."""
    k = design.shape[1]
    chance = sigmoid(coefficients @ design.T)
    slope = (weights * (labels - chance)) @ design - coefficients / variance
    products = (design[:, :, None] * design[:, None, :]).reshape(-1, k * k)
    curve = ((weights * chance * (1 - chance)) @ products).reshape(-1, k, k) + np.eye(k) / variance
    return slope, curve


def _objective(coefficients: Floats, design: Floats, labels: Floats, weights: Floats, variance: float) -> Floats:
    logits = coefficients @ design.T
    likelihood = (weights * (labels * logits - np.logaddexp(0.0, logits))).sum(1)
    value: Floats = likelihood - np.square(coefficients).sum(1) / (2 * variance)
    return value
