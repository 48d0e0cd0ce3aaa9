"""Losses that take a whole optimizer step at once, because its pairs depend on one another: beta-DPO, LCPO, RPO."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tasks.training.objectives.batch import Batch
from tasks.training.objectives.beta_dpo import Running, drawn, likelihood, step_beta
from tasks.training.objectives.lcpo import lcpo, posterior, updated
from tasks.training.objectives.logistic import dpo
from tasks.training.objectives.rpo import rpo, rpo_diagonal, similarity_weights
from tasks.training.objectives.settings import BetaDpoSettings, LcpoSettings, RpoSettings
from tasks.training.objectives.squared import ipo

#: What a loss carries from step to step; kept in checkpoints.
Memory = Mapping[str, float]


@dataclass(frozen=True)
class StepLoss:
    """Losses of a step's terms, whose mean is minimised; figures for its metrics; what the next step starts from."""

    values: Tensor
    details: dict[str, float] = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)


#: (all of a step, what the step before left, a generator of the step's own) -> its loss
WindowLoss = Callable[[Batch, Memory, np.random.Generator], StepLoss]


def beta_dpo_step(settings: BetaDpoSettings) -> WindowLoss:
    def loss(batch: Batch, memory: Memory, generator: np.random.Generator) -> StepLoss:
        gaps = (batch.h_chosen - batch.h_rejected).detach().cpu().numpy()
        before = Running(memory.get("gap_mean", 0.0), memory.get("gap_deviation", 0.0), int(memory.get("steps", 0)))
        running = before.updated(gaps, settings.momentum)
        mean, deviation = running.corrected(settings.momentum)
        kept = drawn(likelihood(gaps, mean, deviation), settings.drop, generator)
        beta = step_beta(float(gaps[kept].mean()), mean, beta=settings.beta, gain=settings.gain)
        index = torch.from_numpy(kept).to(batch.logprobs.device)
        return StepLoss(
            dpo(batch.h_chosen[index], batch.h_rejected[index], beta=beta),
            {"beta": beta, "kept": float(len(kept))},
            {"gap_mean": running.mean, "gap_deviation": running.deviation, "steps": running.steps},
        )

    return loss


def lcpo_step(settings: LcpoSettings) -> WindowLoss:
    base = {"dpo": dpo, "ipo": ipo}[settings.base]

    def loss(batch: Batch, memory: Memory, generator: np.random.Generator) -> StepLoss:
        names = batch.annotators if settings.by_annotator else ("panel",)
        eta = {name: memory.get(name, settings.reliability) for name in names}
        ahead = base(batch.h_chosen, batch.h_rejected, beta=settings.beta)[:, None]
        behind = base(batch.h_rejected, batch.h_chosen, beta=settings.beta)[:, None]
        votes = batch.pairs["votes"] if settings.by_annotator else torch.ones_like(ahead)  # of chosen, [N, A]
        each = torch.tensor([eta[name] for name in names], dtype=ahead.dtype, device=ahead.device)
        agree = posterior(ahead, behind, each, temperature=settings.temperature)
        disagree = posterior(behind, ahead, each, temperature=settings.temperature)
        cast = ~votes.isnan()
        share = votes.nan_to_num()
        losses = share * lcpo(ahead, behind, agree) + (1 - share) * lcpo(behind, ahead, disagree)
        right = torch.where(cast, share * agree + (1 - share) * disagree, torch.nan).nanmean(0).tolist()
        learnt = {name: updated(eta[name], mean, settings.momentum) for name, mean in zip(names, right, strict=True)}
        return StepLoss(losses[cast], {f"reliability/{name}": value for name, value in learnt.items()}, learnt)

    return loss


def rpo_step(settings: RpoSettings) -> WindowLoss:
    def loss(batch: Batch, memory: Memory, generator: np.random.Generator) -> StepLoss:
        if settings.pairing == "diagonal":
            values = rpo_diagonal(batch.h_chosen, batch.h_rejected, beta=settings.beta, own_weight=settings.own_weight)
            return StepLoss(values)
        chosen, rejected = batch.chosen, batch.rejected
        if settings.pairing == "unpaired":
            chosen, rejected = chosen.unique(), rejected.unique()
        assert batch.embeddings is not None
        vectors = batch.embeddings[batch.owner]
        weights = similarity_weights(vectors[chosen], vectors[rejected], temperature=settings.temperature)
        return StepLoss(rpo(batch.h[chosen], batch.h[rejected], weights, beta=settings.beta).flatten())

    return loss
