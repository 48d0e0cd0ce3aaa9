"""Many small logistic regressions with fractional labels at once: one fit for each row of weights."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from storage.arrays import Bools, Floats

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
    data = _Totals.of(design, labels, weights)
    # Resamples are similar to the whole sample: from its coefficients, most converge in a few cheap, plain steps.
    coefficients = np.repeat(_damped(data.mean(), variance), len(weights), axis=0)
    for _ in range(_FEW):
        slope, curve = _derivatives(coefficients, data, variance)
        unfinished = ~(np.abs(slope).max(1) < _CLOSE * len(labels))
        if not unfinished.any():
            break
        coefficients += np.linalg.solve(curve, slope[..., None])[..., 0]
    else:
        slope, _ = _derivatives(coefficients, data, variance)
        unfinished = ~(np.abs(slope).max(1) < _CLOSE * len(labels))
    if unfinished.any():
        coefficients[unfinished] = _damped(data.some(unfinished), variance)
    return coefficients


@dataclass(frozen=True)
class _Totals:
    """Weights and wins of a design, summed over equal rows. d: distinct rows.

    The sums give the same likelihood. Lengths are whole numbers, so hundreds of comparisons have a few dozen distinct
    rows, and a step of the fit is faster.
    """

    rows: int  # before summing
    design: Floats  # [d, k]
    weight: Floats  # [r, d]
    won: Floats  # [r, d], weight times label

    @classmethod
    def of(cls, design: Floats, labels: Floats, weights: Floats) -> Self:
        distinct, of_row = np.unique(design, axis=0, return_inverse=True)
        order = np.argsort(of_row, kind="stable")
        starts = np.searchsorted(of_row[order], np.arange(len(distinct)))
        sorted_weights = weights[:, order]
        totals = (np.add.reduceat(each, starts, axis=1) for each in (sorted_weights, sorted_weights * labels[order]))
        return cls(len(labels), distinct, *totals)

    def mean(self) -> Self:
        """One fit with the mean weights."""
        return replace(self, weight=self.weight.mean(0, keepdims=True), won=self.won.mean(0, keepdims=True))

    def some(self, fits: Bools) -> Self:
        return replace(self, weight=self.weight[fits], won=self.won[fits])


def _damped(data: _Totals, variance: float) -> Floats:
    """Like `fit`, from 0; a step is halved while it would lower the objective."""
    coefficients = np.zeros((len(data.weight), data.design.shape[1]))
    value = _objective(coefficients, data, variance)
    for _ in range(_STEPS):
        slope, curve = _derivatives(coefficients, data, variance)
        if np.abs(slope).max() < _CLOSE * data.rows:
            break
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        for _ in range(30):
            reached = _objective(coefficients + step, data, variance)
            worse = reached < value - 1e-12 * np.abs(value)
            if not worse.any():
                break
            step[worse] /= 2
        coefficients, value = coefficients + step, reached
    return coefficients


def _derivatives(coefficients: Floats, data: _Totals, variance: float) -> tuple[Floats, Floats]:
    """Gradient [r, k] of the objective, and minus its Hessian [r, k, k]."""
    k = data.design.shape[1]
    chance = sigmoid(coefficients @ data.design.T)
    expected = data.weight * chance
    slope = (data.won - expected) @ data.design - coefficients / variance
    products = (data.design[:, :, None] * data.design[:, None, :]).reshape(-1, k * k)
    curve = ((expected * (1 - chance)) @ products).reshape(-1, k, k) + np.eye(k) / variance
    return slope, curve


def _objective(coefficients: Floats, data: _Totals, variance: float) -> Floats:
    logits = coefficients @ data.design.T
    likelihood = (data.won * logits - data.weight * np.logaddexp(0.0, logits)).sum(1)
    value: Floats = likelihood - np.square(coefficients).sum(1) / (2 * variance)
    return value
