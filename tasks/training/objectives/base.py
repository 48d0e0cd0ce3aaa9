"""What every objective is made of. An objective is one class: its settings are fields, and it knows its needs and loss.

A field's default is the paper's unless the field is marked OURS. `beta` is always the factor of the log-ratio in the
implicit reward, whatever its letter in the paper.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.training.objectives.moving import Reference
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tasks.training.objectives.batch import Batch

Labels = Literal["hard", "soft"]  # hard: chosen won; soft: the empirical preference
Length = Literal["sum", "mean"]  # log-ratios of whole responses, or a token
#: Where rewards of responses come from: scores of annotators, or the targets (logits) of the preferences.
Rewards = Literal["scores", "target"]

#: What an objective carries from step to step; kept in checkpoints.
Memory = Mapping[str, float]


@dataclass(frozen=True)
class StepLoss:
    """Losses of a step's terms, whose mean is minimised; figures for its metrics; what the next step starts from."""

    values: Tensor
    details: dict[str, float] = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)


class Objective(BaseModel, ABC):
    """The settings of a method, its needs and its loss.

    Each method has a field `name` whose default is the word that chooses it. Most derive from PairObjective.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    if TYPE_CHECKING:
        name: str

    reference: Reference = "initial"  # the policy that log-ratios are taken against

    @field_validator("name", check_fields=False)
    @classmethod
    def _own_name(cls, name: str) -> str:
        word = cls.model_fields["name"].default
        if name != word and ":" not in name:  # module:Class, where a configuration gives the class by its path
            raise ValueError(f"{cls.__qualname__} is called {word!r}")
        return name

    def needs(self) -> Needs:
        """What these settings need to be trained with."""
        return Needs()

    @abstractmethod
    def step_loss(self, batch: Batch, memory: Memory, generator: np.random.Generator) -> StepLoss:
        """The loss of all pairs of an optimizer step, without the NLL term; a pure function.

        memory: what the step before left, empty at the first. generator: the step's own.
        """

    @property
    @abstractmethod
    def margin_scale(self) -> float:
        """Implicit reward per nat of log-ratio: the factor of the metric `margin`."""

    @property
    def nll_weight(self) -> float:
        """Factor of the negative log-likelihood of chosen that is added to the loss; 0 adds nothing."""
        return 0.0

    def nll_losses(self, batch: Batch) -> Tensor:
        """nll_weight * -log pi(chosen) / |chosen| of each pair, [N] (Iterative RPO, arXiv 2404.19733)."""
        return -self.nll_weight * batch.logprobs[batch.chosen] / batch.lengths[batch.chosen]


class BatchObjective(Objective):
    """A loss of each pair (or prompt) on its own: a step may be split into micro-batches."""

    @abstractmethod
    def batch_loss(self, batch: Batch) -> Tensor:
        """Losses of the batch's pairs, [N], or of its prompts, [G], if `needs` has listwise; without the NLL term.

        A pure function of the batch and the settings. The mean over a step's pairs (prompts) is minimised.
        """

    def step_loss(self, batch: Batch, memory: Memory, generator: np.random.Generator) -> StepLoss:
        return StepLoss(self.batch_loss(batch))

    def losses(self, batch: Batch) -> Tensor:
        """`batch_loss` with the NLL term."""
        loss = self.batch_loss(batch)
        return loss + self.nll_losses(batch) if self.nll_weight else loss


class PairSettings(Objective):
    """Fields of methods on pairs. Derive from it when the pairs of a step depend on one another: define `step_loss`."""

    beta: float = Field(0.1, gt=0)  # implicit reward = beta * log(policy / reference)
    nll: float = Field(0.0, ge=0)  # times the mean negative log-likelihood of a token of chosen, added to the loss

    @property
    def margin_scale(self) -> float:
        return self.beta

    @property
    def nll_weight(self) -> float:
        return self.nll


class PairObjective(PairSettings, BatchObjective):
    """A loss of each labelled pair on its own. Most methods derive from this: define `batch_loss`."""


class Rewarded(BaseModel):
    """For methods that read rewards of single responses. List it first: `class Mine(Rewarded, PairObjective)`."""

    rewards: Rewards
    score_annotators: list[str] = []  # whose scores; empty = of all that give any
    standardise: bool = True  # each annotator's scores have mean 0 and deviation 1 over the round, as one logit

    def scores_needed(self) -> tuple[str, ...] | None:
        """For `Needs.scores`."""
        return tuple(self.score_annotators) if self.rewards == "scores" else None

    def reward(self, batch: Batch) -> Tensor:
        """Reward of chosen less that of rejected, [N]."""
        return batch.pairs["reward"] if self.rewards == "scores" else batch.labels
