"""SPO: an alignment loss, and a self-supervised one that tells how much of a response's key content is missing.

    base + gamma / 2 [-log pi(n_w | x, y_w without n_w phrases) - log pi(n_l | x, y_l without n_l phrases)]

Source: arXiv 2409.17791, in its spirit. From the paper are the sum of both losses, key phrases by RAKE, and classes by
the number of phrases taken out. Not verified is all else: gamma is ours; n is drawn once a round for each response;
the classifier is the policy's own output layer, which says n by a label word after the response's end, so that nothing
is trained that the published policy has not. Other methods are called SPO too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.training.objectives.base import PairObjective
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.ipo import ipo
from tasks.training.objectives.needs import Degrees, Needs

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.objectives.batch import Batch


class Spo(PairObjective):
    name: str = "spo"
    base: Literal["dpo", "ipo"] = "dpo"  # the alignment loss
    gamma: float = Field(0.1, ge=0)  # OURS: weight of the self-supervised loss; 0 is the base alone
    labels: list[str] = Field(["0", "1", "2", "3"], min_length=2)  # OURS: words that say how many phrases are missing
    stop_words: list[str] = Field([])  # that end a phrase, beside English words of grammar

    def needs(self) -> Needs:
        return Needs(ties=False, tokens=True, degrees=Degrees(tuple(self.labels), tuple(self.stop_words)))

    def batch_loss(self, batch: Batch) -> Tensor:
        base = dpo if self.base == "dpo" else ipo
        chosen, rejected = batch.of_pairs(batch.copy_labels())
        return spo(base(batch.h_chosen, batch.h_rejected, beta=self.beta), chosen, rejected, gamma=self.gamma)


def spo(base: Tensor, chosen: Tensor, rejected: Tensor, *, gamma: float) -> Tensor:
    """Loss of each pair, [N]. base: of the alignment loss. chosen, rejected: log pi of their copies' labels, nats."""
    return base - gamma / 2 * (chosen + rejected)
