"""One optimizer step over a window of prompts, and the check that the first one must pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate as running_sums
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from storage.errors import UserError
from tasks.training.batching import Forward
from tasks.training.distributed import ALONE, Ranks
from tasks.training.examples import Example, collate
from tasks.training.groups import PromptGroup
from tasks.training.objectives.base import BatchObjective, Memory, Objective, StepLoss
from tasks.training.objectives.batch import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Step:
    """What a step takes beside its window: whose votes there are, what the step before left, a generator of its own."""

    annotators: tuple[str, ...] = ()
    memory: Memory = field(default_factory=dict)
    seed: tuple[int, ...] = (0,)

    def loss(self, objective: Objective, batch: Batch) -> StepLoss:
        """The loss of a whole step; the same at every call."""
        return objective.step_loss(batch, self.memory, np.random.default_rng(self.seed))


@dataclass(frozen=True)
class WindowResult:
    """Means over the window's pairs by name, and the largest |h| / sqrt(response tokens); all 0-dim float64 tensors.

    `details` are the objective's own figures, `memory` what it carries to the next step.
    """

    means: dict[str, Tensor]
    largest_ratio: Tensor
    pairs: int
    tokens: int
    details: Mapping[str, float] = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)


def accumulate(
    forward: Forward,
    window: Sequence[Example],
    objective: Objective,
    *,
    accelerator: "Accelerator",
    step: Step,
    ranks: Ranks = ALONE,
) -> WindowResult:
    """Add the gradient of the mean loss over the window, in the micro-batches that `forward` makes of it.

    Each response is forwarded once, and all its pairs take its log-probability from there. Micro-batches are whole
    groups and every term is divided by the terms of the whole window, so the split changes nothing but rounding: not
    the split over `ranks` either, each of which forwards its share. The result is that of the whole window on each.

    An objective of whole steps is split exactly too: its gradient is taken with respect to all log-probabilities of the
    window, which a first forward without gradient gives, and then carried into the model micro-batch by micro-batch.
    A window that fits one micro-batch needs no second forward.
    """
    groups = [example.group for example in window]
    rows = ranks.rows(forward, groups)
    pairs = sum(len(group.pairs) for group in groups)
    units = len(groups) if objective.needs().listwise else pairs
    totals = _Totals(objective, pairs, accelerator.device)
    smallest = min(range(len(groups)), key=lambda i: forward.tokens_of(groups[i]))

    def forwards() -> Iterator[tuple[list[int], Batch]]:
        for indices in rows[ranks.rank]:
            members = indices or [smallest]  # a rank that is through keeps step, and makes nothing of it
            batch = collate([window[i] for i in members], accelerator.device, step.annotators)
            with accelerator.autocast():
                logprobs, single = forward.logprobs([groups[i] for i in members])
            yield indices, batch.at(logprobs, single)

    loss: StepLoss | None = None
    if isinstance(objective, BatchObjective):
        for indices, batch in forwards():
            if not indices:
                accelerator.backward(0 * batch.logprobs.sum())
                continue
            losses = objective.losses(batch)
            accelerator.backward(losses.sum() / units)
            totals.add(batch, losses.detach().sum() / units)
        totals.gather(ranks)
    elif len(rows[0]) == ranks.size == 1:
        _, whole = next(forwards())
        loss, total = _whole_loss(objective, whole, step)
        accelerator.backward(total)
        totals.add(whole, total.detach())
    else:
        order = [i for mine in rows for indices in mine for i in indices]
        known = _known(forwards, groups, order, ranks)
        leaf = known.requires_grad_()
        whole = collate([window[i] for i in order], accelerator.device, step.annotators).at(leaf)
        loss, total = _whole_loss(objective, whole, step)
        totals.add(whole, total.detach())
        (slope,) = torch.autograd.grad(total, leaf)
        slopes = dict(zip(order, slope.split([len(groups[i].responses) for i in order]), strict=True))
        for indices, batch in forwards():
            weights = torch.cat([slopes[i] for i in indices]) if indices else torch.zeros_like(batch.logprobs)
            accelerator.backward((batch.logprobs * weights).sum())
    return WindowResult(
        totals.means,
        totals.ratio,
        pairs,
        sum(group.tokens for group in groups),
        loss.details if loss else {},
        loss.memory if loss else {},
    )


def _known(
    forwards: Callable[[], Iterator[tuple[list[int], Batch]]],
    groups: Sequence[PromptGroup],
    order: Sequence[int],
    ranks: Ranks,
) -> Tensor:
    """Log-probabilities of all responses, the groups in `order`, float64 [sum of K]; each rank forwards its share."""
    ends = list(running_sums(len(groups[i].responses) for i in order))
    places = {i: slice(end - len(groups[i].responses), end) for i, end in zip(order, ends, strict=True)}
    known: Tensor | None = None
    with torch.no_grad():
        for indices, batch in forwards():
            if known is None:
                known = torch.zeros(ends[-1], dtype=batch.logprobs.dtype, device=batch.logprobs.device)
            parts = batch.logprobs.split([len(groups[i].responses) for i in indices or [0]])
            for i, part in zip(indices, parts, strict=False):
                known[places[i]] = part
    assert known is not None
    return ranks.total(known)


def _whole_loss(objective: Objective, batch: Batch, step: Step) -> tuple[StepLoss, Tensor]:
    """Loss of a whole step, and the mean of its terms with the add-ons."""
    loss = step.loss(objective, batch)
    total = loss.values.mean()
    return loss, total + objective.nll_losses(batch).mean() if objective.nll_weight else total


class _Totals:
    """Means over the pairs of a window, added up micro-batch by micro-batch; the largest |h| / sqrt(tokens)."""

    def __init__(self, objective: Objective, pairs: int, device: torch.device) -> None:
        self.objective = objective
        self.pairs = pairs
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self.means: dict[str, Tensor] = dict.fromkeys(_MEANS, zero)
        self.ratio = zero

    def add(self, batch: Batch, loss: Tensor) -> None:
        h, h_chosen, h_rejected = batch.h.detach(), batch.h_chosen.detach(), batch.h_rejected.detach()
        agreement = ((h_chosen - h_rejected) * batch.labels).sign()
        columns = {
            "margin": self.objective.margin_scale * (h_chosen - h_rejected),
            "accuracy": (agreement + 1) / 2,
            "h_chosen": h_chosen,
            "h_rejected": h_rejected,
            "label": batch.labels,
        }
        self.means["loss"] = self.means["loss"] + loss
        for name, values in columns.items():
            self.means[name] = self.means[name] + values.sum() / self.pairs
        self.ratio = torch.maximum(self.ratio, (h.abs() / batch.lengths.sqrt()).max())

    def gather(self, ranks: Ranks) -> None:
        """Those of all ranks, each of which has added its share."""
        means = ranks.total(torch.stack(list(self.means.values())))
        self.means = dict(zip(self.means, means.unbind(), strict=True))
        self.ratio = ranks.largest(self.ratio)


_MEANS = ("loss", "margin", "accuracy", "h_chosen", "h_rejected", "label")


#: By dtype: largest |h| / sqrt(response tokens) at the start in nats, and relative deviation of the first loss.
#: float32 forwards of other batch shapes differ by 1e-6 a token; bfloat16 ones by 1e-2 (findings: 2e-3 .. 2e-2).
FIRST_STEP = {"float32": (1e-3, 1e-4), "bfloat16": (0.1, 0.1)}


def first_loss(objective: Objective, window: Sequence[Example], step: Step) -> float:
    """The loss of a window under a policy that is the reference: of iREPO mean(target^2), of DPO log 2."""
    batch = collate(window, torch.device("cpu"), step.annotators)
    if isinstance(objective, BatchObjective):
        return float(objective.losses(batch).mean())
    return float(_whole_loss(objective, batch, step)[1])


def check_first_step(result: WindowResult, expected: float, dtype: str) -> None:
    """Refuse to train when a policy that *is* the reference does not start at log-ratio 0.

    Then the policy's forward and the reference's are not the same function (adapters that are not neutral, another
    precision or kernel, dropout, wrong alignment of tokens), and every target would be off by the difference. The first
    loss must be `expected`, which `first_loss` gives. Raises UserError.
    """
    allowed, relative = FIRST_STEP[dtype]
    largest, first = float(result.largest_ratio), float(result.means["loss"])
    if largest < allowed and abs(first - expected) <= relative * abs(expected) + 1e-6:
        return
    raise UserError(
        "before the first update the policy is the reference, but they do not agree: "
        f"|log-ratio| / sqrt(tokens) is up to {largest:.2e} (allowed {allowed:g}) and the first loss is {first:.6g} "
        f"(expected {expected:.6g} within {relative:g})",
        where="first training step",
        remedy="delete reference.parquet of the stage and run it again; if it stays, train in float32 and check that "
        "the model has no noise (dropout, routing) in its forward",
    )
