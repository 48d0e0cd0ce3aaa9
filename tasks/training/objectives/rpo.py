"""RPO, relative preference optimisation: every chosen response against every rejected one of similar prompts.

Source: arXiv 2402.10958. With unit vectors e of the prompts, over all pairs (or responses) of a step:

    W_ij = softmax_j(-(1 - cos(e_i, e_j)) / tau)         i: prompt of a chosen response, j: of a rejected one
    paired, unpaired:  L = mean_ij -ls(beta W_ij (h_chosen,i - h_rejected,j))      the weight is inside
    diagonal:          L_i = a l_ii + (1 - a) mean_{j != i} l_ij,  l_ij = -ls(beta (h_chosen,i - h_rejected,j))

`paired` takes each side of every pair, `unpaired` each response once on its side, however many pairs it is in. As rows
of W sum to 1, the more there is in a step, the smaller the effective beta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.training.objectives.base import Memory, PairSettings, StepLoss
from tasks.training.objectives.logistic import log_sigmoid
from tasks.training.objectives.needs import Needs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tasks.training.objectives.batch import Batch

PAPERS_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"


class Rpo(PairSettings):
    name: str = "rpo"
    pairing: Literal["paired", "unpaired", "diagonal"] = "paired"  # rejected replies to compare chosen ones with
    temperature: float = Field(0.5, gt=0)  # tau, of the similarity of prompts
    own_weight: float = Field(0.8, ge=0, le=1)  # diagonal: weight of a pair's own contrast
    embedder: str = PAPERS_EMBEDDER  # folder or hub id of a sentence encoder, or policy: its own hidden states

    def needs(self) -> Needs:
        return Needs(ties=False, embedder=None if self.pairing == "diagonal" else self.embedder)

    def step_loss(self, batch: Batch, memory: Memory, generator: np.random.Generator) -> StepLoss:
        import torch

        if self.pairing == "diagonal":
            return StepLoss(rpo_diagonal(batch.h_chosen, batch.h_rejected, beta=self.beta, own_weight=self.own_weight))
        chosen, rejected = batch.chosen, batch.rejected
        if self.pairing == "unpaired":
            chosen, rejected = torch.unique(chosen), torch.unique(rejected)
        assert batch.embeddings is not None
        vectors = batch.embeddings[batch.owner]
        weights = similarity_weights(vectors[chosen], vectors[rejected], temperature=self.temperature)
        return StepLoss(rpo(batch.h[chosen], batch.h[rejected], weights, beta=self.beta).flatten())


def similarity_weights(chosen: Tensor, rejected: Tensor, *, temperature: float) -> Tensor:
    """W, [M, N], whose rows sum to 1. chosen, rejected: vectors of prompts, [M, E] and [N, E], of any length."""
    from torch.nn.functional import normalize

    cosine = normalize(chosen, dim=1) @ normalize(rejected, dim=1).T
    return ((cosine - 1) / temperature).softmax(1)


def rpo(h_chosen: Tensor, h_rejected: Tensor, weights: Tensor, *, beta: float) -> Tensor:
    """Loss of each contrast, [M, N]. h_chosen [M], h_rejected [N]: log-ratios, nats. weights: W, [M, N]."""
    return -log_sigmoid(beta * weights * (h_chosen[:, None] - h_rejected))


def rpo_diagonal(h_chosen: Tensor, h_rejected: Tensor, *, beta: float, own_weight: float) -> Tensor:
    """Loss of each pair, [N]; of a single pair, its own contrast."""
    contrasts = -log_sigmoid(beta * (h_chosen[:, None] - h_rejected))
    own = contrasts.diagonal()
    if len(own) == 1:
        return own
    others = (contrasts.sum(1) - own) / (len(own) - 1)
    return own_weight * own + (1 - own_weight) * others
