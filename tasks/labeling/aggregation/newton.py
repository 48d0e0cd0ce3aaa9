"""Damped Newton's method for many small problems at once, one for each prompt."""

from collections.abc import Callable

import numpy as np

from storage.arrays import Floats

_ITERATIONS = 200
_HALVINGS = 40
_ARMIJO = 0.1  # a step is halved unless it gains this share of the rise that the slope predicts
_ROUNDING = 1e-12  # relative error of the log-posterior


def maximise(
    value: Callable[[Floats], Floats],
    derivatives: Callable[[Floats], tuple[Floats, Floats]],
    start: Floats,
    tolerance: Floats | float,
) -> tuple[Floats, Floats]:
    """The maximum [P, D] of each of P problems, and the inverse curvature [P, D, D] there.

    `value` maps points [P, D] to [P]; `derivatives` gives the gradient [P, D] and a positive definite curvature
    [P, D, D], the negative Hessian or its expectation. It stops when the predicted rise is at most `tolerance`.

    Raises ArithmeticError when a curvature is singular in float64, and when it has not converged after 200 steps.
    """
    point, best = start, value(start)
    try:
        for _ in range(_ITERATIONS):
            gradient, curvature = derivatives(point)
            step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
            predicted = (gradient * step).sum(axis=1)
            size = np.ones((len(point), 1))
            for _ in range(_HALVINGS):
                moved = value(point + size * step)
                too_low = moved < best + _ARMIJO * size[:, 0] * predicted - _ROUNDING * (1 + np.abs(best))
                if not too_low.any():
                    break
                size[too_low] /= 2
            point, best = point + size * step, moved
            if (predicted <= tolerance).all():
                return point, np.linalg.inv(derivatives(point)[1]).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        raise ArithmeticError(
            "strengths are too far apart for float64; use a smaller prior_variance or a larger anchor"
        ) from None
    raise ArithmeticError(f"not converged after {_ITERATIONS} Newton steps")
