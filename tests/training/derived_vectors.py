"""Values and slopes of losses, derived from the papers' formulas with Python's complex numbers alone.

    python -m tests.training.derived_vectors          # prints the vectors

Nothing of the project is imported: a slope is the imaginary part of the loss at x + 1e-30 i, over 1e-30, exact to
rounding in float64.
"""

import cmath
from collections.abc import Callable, Sequence

Formula = Callable[[Sequence[complex]], complex]
STEP = 1e-30


def minus_log_sigmoid(x: complex) -> complex:
    return cmath.log(1 + cmath.exp(-x))


def nash_md_loss(x: Sequence[complex], probability: float = 0.8, beta: float = 0.1) -> complex:
    """1/(2 beta) (beta h - (P - 1/2))^2 of the policy's response, whose log-ratio is the first."""
    return (beta * x[0] - (probability - 0.5)) ** 2 / (2 * beta)


def nash_md_policy_gradient(h: float, probability: float, beta: float) -> float:
    """What Nash-MD-PG multiplies the slope of log pi(y) with, as written in the paper, with its sign turned round."""
    return -(probability - 0.5 - beta * h)


def bvpo_loss(x: Sequence[complex], alpha: float = 0.3, beta: float = 0.1) -> complex:
    """Three pairs (x0, x1), (x2, x3), (x4, x5): the first two with a trace, the last without."""
    traced = [minus_log_sigmoid(beta * (x[0] - x[1])), minus_log_sigmoid(beta * (x[2] - x[3]))]
    return alpha * sum(traced) / 2 + (1 - alpha) * minus_log_sigmoid(beta * (x[4] - x[5]))


def c_rlft_loss(x: Sequence[complex], worse: float = 0.1) -> complex:
    """Mean over two examples, log-probabilities a token: the first preferred, the second not."""
    return (-1.0 * x[0] - worse * x[1]) / 2


def precision_irepo_loss(x: Sequence[complex], target: float = 1.0986122886681098, beta: float = 0.1) -> complex:
    """Squared loss of a pair whose target has the standard error 0.75, times 1 / (se^2 + 1)."""
    return (beta * (x[0] - x[1]) - target) ** 2 / (0.75**2 + 1)


def spo_loss(x: Sequence[complex], beta: float = 0.1, gamma: float = 0.3) -> complex:
    """DPO on the first two log-ratios, and the mean surprise of the label words of the two copies, times gamma."""
    return minus_log_sigmoid(beta * (x[0] - x[1])) + gamma * (-x[2] - x[3]) / 2


def slopes(formula: Formula, at: Sequence[float]) -> list[float]:
    found = []
    for place in range(len(at)):
        moved = [complex(value, STEP if i == place else 0.0) for i, value in enumerate(at)]
        found.append(formula(moved).imag / STEP)
    return found


POINTS: dict[str, tuple[Formula, list[float]]] = {
    "nash-md": (nash_md_loss, [1.0]),
    "bvpo": (bvpo_loss, [0.7, -0.4, 0.2, 0.5, -1.0, 0.3]),
    "c-rlft": (c_rlft_loss, [-1.2, -2.5]),
    "irepo precision": (precision_irepo_loss, [0.7, -0.4]),
    "spo": (spo_loss, [0.7, -0.4, -1.5, -0.2]),
}


def vectors() -> dict[str, tuple[float, list[float]]]:
    """Loss and slopes at each of POINTS."""
    return {
        name: (formula([complex(value) for value in at]).real, slopes(formula, at))
        for name, (formula, at) in POINTS.items()
    }


if __name__ == "__main__":
    for name, (value, slope) in vectors().items():
        print(name, repr(value), [f"{each:.15g}" for each in slope])
