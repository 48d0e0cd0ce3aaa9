"""The regression of iREPO in a table, solved exactly."""

import numpy as np

from storage.arrays import Floats

RIDGE = 1e-3  # towards the previous round's policy; it determines what no pair determines


def regress(weight: Floats, target: Floats, warm: Floats, beta: float, ridge: float = RIDGE) -> Floats:
    """Log-ratios f = log pi / pi_ref, up to a constant, that minimise the squared loss over pairs, [X, K].

    sum_ij weight_ij (beta (f_i - f_j) - target_ij)^2 / 2 + ridge |f - warm|^2, for weight (how often a pair was
    compared, symmetric) and target (antisymmetric) [X, K, K], and the log-ratios `warm` [X, K] of the last policy.
    """
    size = weight.shape[1]
    laplacian = weight.sum(axis=2)[:, :, None] * np.eye(size) - weight
    right = beta * (weight * target).sum(axis=2) + ridge * warm
    result: Floats = np.linalg.solve(beta**2 * laplacian + ridge * np.eye(size), right[:, :, None])[:, :, 0]
    return result
