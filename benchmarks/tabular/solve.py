"""The project's objectives on tables: minimises the loss over policies with one logit for each response."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from storage.arrays import Bools, Floats, Ints
from tasks.training.objectives.base import BatchObjective, Objective
from tasks.training.objectives.batch import Batch

_SURE = 40.0  # logit of a label that is certain
_ITERATIONS = 500


@dataclass(frozen=True)
class Labelled:
    """Labelled pairs of a table, all [n]; `label` is a logit. Further columns are those of the objective's batch."""

    prompt: Ints
    chosen: Ints
    rejected: Ints
    label: Floats
    weight: Floats  # how often the pair occurs
    responses: dict[str, Floats] = field(default_factory=dict)  # [X, K]
    pairs: dict[str, Floats] = field(default_factory=dict)  # [n]
    annotators: tuple[str, ...] = ()


def from_tables(
    target: Floats,
    weight: Floats,
    responses: Mapping[str, Floats] | None = None,
    pairs: Mapping[str, Floats] | None = None,
) -> Labelled:
    """Pairs first < second out of targets and symmetric weights, both [X, K, K]; a target is of any sign."""
    x, i, j = np.nonzero(np.triu(weight, 1))
    label = target[x, i, j].clip(-_SURE, _SURE)
    return Labelled(x, i, j, label, weight[x, i, j], dict(responses or {}), dict(pairs or {}))


def hard(wins: Floats) -> Labelled:
    """Pairs with hard labels from `wins` [X, K, K]: how often i was preferred to j."""
    x, i, j = np.nonzero(wins)
    return Labelled(x, i, j, np.full(len(x), _SURE), wins[x, i, j])


@dataclass(frozen=True)
class Anchor:
    """A ridge for logits that no pair determines: `ridge` * |logits - centre|^2, with `ridge` a number or [X, K]."""

    centre: Floats
    ridge: float | Floats = 1e-3


@dataclass(frozen=True)
class Policies:
    """Logits [X, K] of the reference and of the policy that training starts from."""

    reference: Floats
    previous: Floats


def minimise(
    objective: BatchObjective,
    data: Labelled,
    policies: Policies,
    anchor: Anchor | None = None,
    lengths: Floats | None = None,
    extra: Ints | None = None,
) -> Floats:
    """Logits [X, K] of the policy with the least sum of weight * loss, by L-BFGS from `policies.previous`.

    `lengths` [X, K]: tokens of responses (1 by default). `extra` [X]: slot of each prompt's extra response.
    """
    batch = _batch(data, policies, lengths, extra)
    weight = torch.from_numpy(data.weight)
    shape = policies.previous.shape
    degree = np.ones(shape)
    if anchor is None:
        # Scale each logit so that all have similar curvature: rare responses then converge as fast as common ones.
        # With an anchor the logits are not scaled, so that responses without a pair stay where they are.
        degree = np.full(shape, 1e-12)
        np.add.at(degree, (data.prompt, data.chosen), data.weight)
        np.add.at(degree, (data.prompt, data.rejected), data.weight)
    unit = torch.from_numpy(1 / np.sqrt(degree))
    start = torch.from_numpy(policies.previous)
    move = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [move],
        max_iter=_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = start + move * unit
        values = objective.losses(batch.at(logits.log_softmax(1).flatten()))
        # An objective on whole prompts has one value for each prompt, and all prompts weigh the same.
        loss = (weight * values).sum() if len(values) == len(weight) else values.sum()
        if anchor is not None:
            ridge = torch.as_tensor(anchor.ridge, dtype=torch.float64)
            loss = loss + (ridge * (logits - torch.from_numpy(anchor.centre)).square()).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    result: Floats = (start + move.detach() * unit).numpy()
    return result


def descend(
    objective: Objective, data: Labelled, policies: Policies, *, steps: int = 300, rate: float = 0.05
) -> tuple[Floats, dict[str, float]]:
    """Run Adam on an objective of whole steps, with all pairs in every step.

    Returns logits [X, K] and the objective's memory after the last step. Weights are not read: `data` must repeat a
    pair that counts twice.
    """
    batch = _batch(data, policies, None, None)
    logits = torch.from_numpy(policies.previous).clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    memory: dict[str, float] = {}
    for step in range(steps):
        optimizer.zero_grad()
        done = objective.step_loss(batch.at(logits.log_softmax(1).flatten()), memory, np.random.default_rng(step))
        # The gradient of a prompt's logits shrinks with the number of prompts. Adam is invariant to that scale.
        done.values.mean().backward()
        optimizer.step()
        schedule.step()
        memory = dict(done.memory)
    result: Floats = logits.detach().numpy()
    return result, memory


def _batch(data: Labelled, policies: Policies, lengths: Floats | None, extra: Ints | None) -> Batch:
    prompts, slots = policies.reference.shape

    def logprobs(logits: Floats) -> Tensor:
        return torch.from_numpy(logits).log_softmax(1).flatten()

    def place(slot: Ints) -> Tensor:
        return torch.from_numpy(data.prompt * slots + slot)

    return Batch(
        logprobs=logprobs(policies.previous),
        reference=logprobs(policies.reference),
        lengths=torch.ones(prompts * slots, dtype=torch.float64)
        if lengths is None
        else torch.from_numpy(lengths.flatten()),
        owner=torch.arange(prompts).repeat_interleave(slots),
        chosen=place(data.chosen),
        rejected=place(data.rejected),
        labels=torch.from_numpy(data.label),
        previous=logprobs(policies.previous),
        pairs={name: torch.from_numpy(values) for name, values in data.pairs.items()},
        responses={name: torch.from_numpy(values.flatten()) for name, values in data.responses.items()},
        extra=None if extra is None else torch.from_numpy(np.arange(prompts) * slots + extra),
        annotators=data.annotators,
    )


def merged(prompt: Ints, chosen: Ints, rejected: Ints, shape: tuple[int, int], kept: Bools | None = None) -> Floats:
    """Counts of each ordered pair, [X, K, K], for shape (X, K)."""
    table = np.zeros((*shape, shape[1]))
    which = slice(None) if kept is None else kept
    np.add.at(table, (prompt[which], chosen[which], rejected[which]), 1.0)
    return table
