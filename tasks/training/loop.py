"""One optimizer step over a window of prompts, and the check of the first step."""

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
    """Inputs of a step besides its window."""

    annotators: tuple[str, ...] = ()  # of the columns of votes
    memory: Memory = field(default_factory=dict)  # the objective's state after the previous step
    seed: tuple[int, ...] = (0,)  # of the step's random generator

    def loss(self, objective: Objective, batch: Batch) -> StepLoss:
        """The loss of a whole step; the same at every call."""
        return objective.step_loss(batch, self.memory, np.random.default_rng(self.seed))


@dataclass(frozen=True)
class WindowResult:
    """Loss and metrics of a window; all tensors are 0-dim float64."""

    means: dict[str, Tensor]  # over the window's pairs, by metric
    largest_ratio: Tensor  # the largest |h| / sqrt(response tokens)
    pairs: int
    tokens: int  # prompt + response tokens over all responses
    details: Mapping[str, float] = field(default_factory=dict)  # the objective's own figures
    memory: Memory = field(default_factory=dict)  # the objective's state for the next step


def accumulate(
    forward: Forward,
    window: Sequence[Example],
    objective: Objective,
    *,
    accelerator: "Accelerator",
    step: Step,
    ranks: Ranks = ALONE,
) -> WindowResult:
    """Accumulate the gradient of the mean loss over the window, in the micro-batches of `forward`.

    Each response is forwarded once, and all its pairs share its log-probability. Micro-batches are whole groups, and
    every term is divided by the number of terms in the whole window, so micro-batches and `ranks` change the gradient
    by rounding only. Every rank forwards its share and returns the result of the whole window.

    An objective that couples the pairs of a step is exact too. A first forward without gradient gives all
    log-probabilities of the window; the loss is differentiated with respect to these; a second forward backpropagates
    that gradient into the model, micro-batch by micro-batch. A window of one micro-batch needs no second forward.
    """
    groups = [example.group for example in window]
    rows = ranks.rows(forward, groups)
    pairs = sum(len(group.pairs) for group in groups)
    units = len(groups) if objective.needs().listwise else pairs
    totals = _Totals(objective, pairs, accelerator.device)
    smallest = min(range(len(groups)), key=lambda i: forward.tokens_of(groups[i]))

    def forwards() -> Iterator[tuple[list[int], Batch]]:
        for indices in rows[ranks.rank]:
            members = indices or [smallest]  # idle ranks run a dummy forward so collectives stay in sync
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
        order = [i for rank_rows in rows for indices in rank_rows for i in indices]
        leaf = _window_logprobs(forwards, groups, order, ranks).requires_grad_()
        whole = collate([window[i] for i in order], accelerator.device, step.annotators).at(leaf)
        loss, total = _whole_loss(objective, whole, step)
        totals.add(whole, total.detach())
        (gradient,) = torch.autograd.grad(total, leaf)
        gradients = dict(zip(order, gradient.split([len(groups[i].responses) for i in order]), strict=True))
        for indices, batch in forwards():
            weights = torch.cat([gradients[i] for i in indices]) if indices else torch.zeros_like(batch.logprobs)
            accelerator.backward((batch.logprobs * weights).sum())
    return WindowResult(
        totals.means,
        totals.ratio,
        pairs,
        sum(group.tokens for group in groups),
        loss.details if loss else {},
        loss.memory if loss else {},
    )


def _window_logprobs(
    forwards: Callable[[], Iterator[tuple[list[int], Batch]]],
    groups: Sequence[PromptGroup],
    order: Sequence[int],
    ranks: Ranks,
) -> Tensor:
    """Log-probabilities of all responses, groups in `order`, float64 [sum of K], without gradient; on every rank."""
    ends = list(running_sums(len(groups[i].responses) for i in order))
    slices = {i: slice(end - len(groups[i].responses), end) for i, end in zip(order, ends, strict=True)}
    logprobs: Tensor | None = None
    with torch.no_grad():
        for indices, batch in forwards():
            if logprobs is None:
                logprobs = torch.zeros(ends[-1], dtype=batch.logprobs.dtype, device=batch.logprobs.device)
            parts = batch.logprobs.split([len(groups[i].responses) for i in indices or [0]])
            for i, part in zip(indices, parts, strict=False):
                logprobs[slices[i]] = part
    assert logprobs is not None
    return ranks.total(logprobs)


def _whole_loss(objective: Objective, batch: Batch, step: Step) -> tuple[StepLoss, Tensor]:
    """Loss of a whole step, and the mean of its terms plus the NLL term."""
    loss = step.loss(objective, batch)
    total = loss.values.mean()
    return loss, total + objective.nll_losses(batch).mean() if objective.nll_weight else total


class _Totals:
    """Sums up the metrics of a window over micro-batches."""

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
        """Combine the shares of all ranks."""
        means = ranks.total(torch.stack(list(self.means.values())))
        self.means = dict(zip(self.means, means.unbind(), strict=True))
        self.ratio = ranks.largest(self.ratio)


_MEANS = ("loss", "margin", "accuracy", "h_chosen", "h_rejected", "label")


#: By dtype: tolerance of |h| / sqrt(response tokens) at the first step, in nats, and of the first loss, relative.
#: Forwards of other batch shapes differ by 1e-6 per token in float32 and by 2e-3 to 2e-2 in bfloat16.
FIRST_STEP = {"float32": (1e-3, 1e-4), "bfloat16": (0.1, 0.1)}


def first_loss(objective: Objective, window: Sequence[Example], step: Step) -> float:
    """The loss of a window if the policy is the reference: mean(target^2) for iREPO, log 2 for DPO."""
    batch = collate(window, torch.device("cpu"), step.annotators)
    if isinstance(objective, BatchObjective):
        return float(objective.losses(batch).mean())
    return float(_whole_loss(objective, batch, step)[1])


def check_first_step(result: WindowResult, expected: float, dtype: str) -> None:
    """Raise UserError when the policy equals the reference but training does not start at log-ratio 0.

    Then the two forwards compute different functions (adapters that are not neutral, another precision or kernel,
    dropout, misaligned tokens), and every target would be off by the difference. `expected`: see `first_loss`.
    """
    tolerance, relative = FIRST_STEP[dtype]
    largest, first = float(result.largest_ratio), float(result.means["loss"])
    if largest < tolerance and abs(first - expected) <= relative * abs(expected) + 1e-6:
        return
    raise UserError(
        "before the first update, policy and reference are the same model, but their log-probabilities differ: "
        f"|log-ratio| / sqrt(tokens) is up to {largest:.2e} (allowed {tolerance:g}) and the first loss is {first:.6g} "
        f"(expected {expected:.6g} within {relative:g})",
        where="first training step",
        remedy="delete reference.parquet of the stage and run it again; if the error stays, train with "
        "training.dtype=float32 and check that the model's forward is deterministic (no dropout, no noisy routing)",
    )
