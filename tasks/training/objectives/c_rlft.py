"""C-RLFT: supervised fine-tuning in which the prompt names a response's class, and better classes weigh more.

    -w_c log pi(y | x, c) / |y|         c: preferred or not; w: 1 and 0.1

Source: OpenChat, arXiv 2309.11235, where pi* ~ pi_0 exp(r_c / beta) and the classes are who wrote the response. Here
they are the two sides of a pair: `mixing.goals={scale: classes}` asks for the highest score before a preferred
response and for the lowest before the other (`recipe=c-rlft`), and the policy is sampled with the highest one. There is
no pair loss: of each relabelled pair the response that fits its goal is trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.training.objectives.base import BatchObjective
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class CRlft(BatchObjective):
    name: str = "c-rlft"
    worse: float = Field(0.1, ge=0)  # weight of responses that were not preferred; preferred ones have 1

    @property
    def margin_scale(self) -> float:
        return 1.0

    def needs(self) -> Needs:
        return Needs(ties=False, goals=True)

    def batch_loss(self, batch: Batch) -> Tensor:
        return c_rlft(batch.logprobs[batch.chosen] / batch.lengths[batch.chosen], batch.pairs["best"], worse=self.worse)


def c_rlft(logprobs: Tensor, best: Tensor, *, worse: float) -> Tensor:
    """Loss of each pair, [N]. logprobs: of the trained response, nats a token. best: 1 where the highest goal is asked
    for, else 0."""
    return -(worse + (1 - worse) * best) * logprobs
