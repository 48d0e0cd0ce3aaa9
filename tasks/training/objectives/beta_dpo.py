"""beta-DPO: beta follows the gaps of the step, and pairs with unusual gaps are left out.

Source: arXiv 2407.08639. With the gaps M_i = d_i of a step's pairs (without gradient), their running mean M0 and
deviation S0, both updated before use:

    keep floor(B (1 - rho)) pairs, drawn without replacement with weight exp(-1/2 ((M_i - M0) / S0)^2)
    beta = max(beta0 (1 + alpha (mean of the kept M - M0)), 1e-3),      L = -ls(beta d) of the kept pairs

Choices that the paper leaves open, or that differ from its code: deviations are population ones (ddof 0); the running
values are corrected for their start at 0, as Adam's are; S0 is at least 1e-6, so that equal gaps are all kept with the
same weight; at least one pair is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from tasks.training.objectives.base import Memory, PairSettings, StepLoss
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from tasks.training.objectives.batch import Batch

SMALLEST_BETA = 1e-3
SMALLEST_DEVIATION = 1e-6


class BetaDpo(PairSettings):
    name: str = "beta-dpo"
    gain: float = Field(0.6, ge=0)  # alpha: how far beta follows the mean gap of the step
    drop: float = Field(0.2, ge=0, lt=1)  # rho: share of pairs left out of each step
    momentum: float = Field(0.9, ge=0, lt=1)  # of the running mean and deviation of the gaps

    def needs(self) -> Needs:
        return Needs(ties=False)

    def step_loss(self, batch: Batch, memory: Memory, generator: np.random.Generator) -> StepLoss:
        import torch

        gaps = (batch.h_chosen - batch.h_rejected).detach().cpu().numpy()
        before = Running(memory.get("gap_mean", 0.0), memory.get("gap_deviation", 0.0), int(memory.get("steps", 0)))
        running = before.updated(gaps, self.momentum)
        mean, deviation = running.corrected(self.momentum)
        kept = drawn(likelihood(gaps, mean, deviation), self.drop, generator)
        beta = step_beta(float(gaps[kept].mean()), mean, beta=self.beta, gain=self.gain)
        index = torch.from_numpy(kept).to(batch.logprobs.device)
        return StepLoss(
            dpo(batch.h_chosen[index], batch.h_rejected[index], beta=beta),
            {"beta": beta, "kept": float(len(kept))},
            {"gap_mean": running.mean, "gap_deviation": running.deviation, "steps": running.steps},
        )


@dataclass(frozen=True)
class Running:
    """Running mean and deviation of gaps, nats, as sums that start at 0, and the number of steps in them."""

    mean: float = 0.0
    deviation: float = 0.0
    steps: int = 0

    def updated(self, gaps: np.ndarray, momentum: float) -> Running:
        """After a step with `gaps` [B], nats."""
        rest = 1 - momentum
        return Running(
            momentum * self.mean + rest * float(gaps.mean()),
            momentum * self.deviation + rest * float(gaps.std()),
            self.steps + 1,
        )

    def corrected(self, momentum: float) -> tuple[float, float]:
        """Mean and deviation without the bias of the start; at least one step must be in them."""
        weight = 1 - momentum**self.steps
        return self.mean / weight, self.deviation / weight


def likelihood(gaps: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Weight of each pair in the draw, [B]: exp(-1/2 ((M - mean) / deviation)^2)."""
    weights: np.ndarray = np.exp(-0.5 * np.square((gaps - mean) / max(deviation, SMALLEST_DEVIATION)))
    return weights


def drawn(weights: np.ndarray, drop: float, generator: np.random.Generator) -> np.ndarray:
    """Positions of the kept pairs, ascending; drawn without replacement by `weights` (Efraimidis and Spirakis)."""
    kept = max(1, int(len(weights) * (1 - drop)))
    with np.errstate(divide="ignore"):  # a weight that underflows is drawn last
        keys = np.log(generator.random(len(weights))) / weights
    return np.sort(np.argsort(-keys, kind="stable")[:kept])


def step_beta(kept_mean: float, mean: float, *, beta: float, gain: float) -> float:
    """beta of a step whose kept pairs have the mean gap `kept_mean`, nats."""
    return max(beta * (1 + gain * (kept_mean - mean)), SMALLEST_BETA)
