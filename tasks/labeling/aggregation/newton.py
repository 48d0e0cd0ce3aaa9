"""Damped Newton steps for many small problems at once, one a prompt."""

from collections.abc import Callable

import numpy as np

from storage.arrays import Floats

_ITERATIONS = 200
_HALVINGS = 40
_ARMIJO = 0.1  # a step must gain this share of what its slope promises, or it is halved
_ROUNDING = 1e-12  # relative error of the log-posterior


def maximise(
    value: Callable[[Floats], Floats],
    derivatives: Callable[[Floats], tuple[Floats, Floats]],
    start: Floats,
    tolerance: Floats | float,
) -> tuple[Floats, Floats]:
    """The maximum [P, D] of each of P problems, and the inverse curvature [P, D, D] there.

    `value` maps points [P, D] to [P]; `derivatives` gives the gradient [P, D] and a positive definite curvature
    [P, D, D], the negative Hessian or its expectation. `tolerance`: the rise that the last step still promised.

    Raises ArithmeticError when a curvature is singular in float64, or 200 steps do not suffice.
    """
    point, best = start, value(start)
    try:
        for _ in range(_ITERATIONS):
            gradient, curvature = derivatives(point)
            step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
            promised = (gradient * step).sum(axis=1)
            size = np.ones((len(point), 1))
            for _ in range(_HALVINGS):
                moved = value(point + size * step)
                short = moved < best + _ARMIJO * size[:, 0] * promised - _ROUNDING * (1 + np.abs(best))
                if not short.any():
                    break
                size[short] /= 2
            point, best = point + size * step, moved
            if (promised <= tolerance).all():
                return point, np.linalg.inv(derivatives(point)[1]).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        raise ArithmeticError("strengths are too far apart for float64; use a stronger prior or anchor") from None
    raise ArithmeticError(f"no maximum after {_ITERATIONS} Newton steps")
