"""Nash-MD in tables: the policy's responses against those of its mixture with the initial policy, without noise."""

import numpy as np

from benchmarks.tabular.solve import Labelled, Policies, minimise
from benchmarks.tabular.world import World, softmax
from storage.arrays import Floats
from tasks.training.objectives.nash_md import NashMd


def nash_md(world: World, *, tau: float, mixture: float, rounds: int) -> Floats:
    """Logits after `rounds` rounds. A pair of y of the policy, y' of the mixture weighs as often as it is sampled."""
    settings, gaps, logits = NashMd(beta=tau, mixture=mixture), world.gaps(), world.initial
    x, own, other = (index.ravel() for index in np.indices(gaps.shape))
    for _ in range(rounds):
        opponent = softmax((1 - mixture) * logits + mixture * world.initial)
        weight = (softmax(logits)[:, :, None] * opponent[:, None, :])[x, own, other]
        data = Labelled(x, own, other, gaps[x, own, other], weight, pairs={"second": np.zeros(len(x))})
        logits = minimise(settings, data, Policies(world.initial, logits))
    return logits
