"""Small logistic regressions with fractional labels, many at once: one fit for each row of weights."""

import numpy as np

_STEPS, _FEW = 60, 4
_CLOSE = 1e-7  # of the gradient, a row of the design
_VARIANCE = 10.0  # of the coefficients' Gaussian prior: keeps a fit finite where every label is the same


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    low = np.exp(-np.abs(x))
    found: np.ndarray = np.where(x >= 0, 1.0, low) / (1.0 + low)
    return found


def fit(design: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, variance: float = _VARIANCE) -> np.ndarray:
    """Coefficients [r, k] of P(1) = sigmoid(design @ c), by Newton's method.

    design: [n, k]. labels: [n], in 0..1; a fraction counts as so much of each outcome. weights: [r, n], one fit a row.
    Maximises the weighted log-likelihood with a prior N(0, variance) on every coefficient, which is concave.
    """
    # Resamples lie close to the whole: most are there in a few plain steps from its coefficients, cheaply.
    whole = _damped(design, labels, weights.mean(0, keepdims=True), variance)
    found = np.repeat(whole, len(weights), axis=0)
    for _ in range(_FEW):
        slope, curve = _derivatives(found, design, labels, weights, variance)
        astray = ~(np.abs(slope).max(1) < _CLOSE * len(labels))
        if not astray.any():
            break
        found += np.linalg.solve(curve, slope[..., None])[..., 0]
    else:
        slope, _ = _derivatives(found, design, labels, weights, variance)
        astray = ~(np.abs(slope).max(1) < _CLOSE * len(labels))
    if astray.any():
        found[astray] = _damped(design, labels, weights[astray], variance)
    return found


def _damped(design: np.ndarray, labels: np.ndarray, weights: np.ndarray, variance: float) -> np.ndarray:
    """As `fit`, from 0; a step is halved while it would lower the objective."""
    found = np.zeros((len(weights), design.shape[1]))
    value = _objective(found, design, labels, weights, variance)
    for _ in range(_STEPS):
        slope, curve = _derivatives(found, design, labels, weights, variance)
        if np.abs(slope).max() < _CLOSE * len(labels):
            break
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        for _ in range(30):
            reached = _objective(found + step, design, labels, weights, variance)
            worse = reached < value - 1e-12 * np.abs(value)
            if not worse.any():
                break
            step[worse] /= 2
        found, value = found + step, reached
    return found


def _derivatives(
    found: np.ndarray, design: np.ndarray, labels: np.ndarray, weights: np.ndarray, variance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient [r, k] of the objective, and minus its Hessian [r, k, k]."""
    k = design.shape[1]
    chance = sigmoid(found @ design.T)
    slope = (weights * (labels - chance)) @ design - found / variance
    products = (design[:, :, None] * design[:, None, :]).reshape(-1, k * k)
    curve = ((weights * chance * (1 - chance)) @ products).reshape(-1, k, k) + np.eye(k) / variance
    return slope, curve


def _objective(
    found: np.ndarray, design: np.ndarray, labels: np.ndarray, weights: np.ndarray, variance: float
) -> np.ndarray:
    logits = found @ design.T
    likelihood = (weights * (labels * logits - np.logaddexp(0.0, logits))).sum(1)
    result: np.ndarray = likelihood - np.square(found).sum(1) / (2 * variance)
    return result
