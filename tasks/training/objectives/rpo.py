"""RPO, relative preference optimisation: every chosen response against every rejected one of similar prompts.

Source: arXiv 2402.10958. With unit vectors e of the prompts, over all pairs (or responses) of a step:

    W_ij = softmax_j(-(1 - cos(e_i, e_j)) / tau)         i: prompt of a chosen response, j: of a rejected one
    paired, unpaired:  L = mean_ij -ls(beta W_ij (h_chosen,i - h_rejected,j))      the weight is inside
    diagonal:          L_i = a l_ii + (1 - a) mean_{j != i} l_ij,  l_ij = -ls(beta (h_chosen,i - h_rejected,j))

`paired` takes each side of every pair, `unpaired` each response once on its side, however many pairs it is in. As rows
of W sum to 1, the more there is in a step, the smaller the effective beta.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid, normalize


def similarity_weights(chosen: Tensor, rejected: Tensor, *, temperature: float) -> Tensor:
    """W, [M, N], whose rows sum to 1. chosen, rejected: vectors of prompts, [M, E] and [N, E], of any length."""
    cosine = normalize(chosen, dim=1) @ normalize(rejected, dim=1).T
    return ((cosine - 1) / temperature).softmax(1)


def rpo(h_chosen: Tensor, h_rejected: Tensor, weights: Tensor, *, beta: float) -> Tensor:
    """Loss of each contrast, [M, N]. h_chosen [M], h_rejected [N]: log-ratios, nats. weights: W, [M, N]."""
    return -logsigmoid(beta * weights * (h_chosen[:, None] - h_rejected))


def rpo_diagonal(h_chosen: Tensor, h_rejected: Tensor, *, beta: float, own_weight: float) -> Tensor:
    """Loss of each pair, [N]; of a single pair, its own contrast."""
    contrasts = -logsigmoid(beta * (h_chosen[:, None] - h_rejected))
    own = contrasts.diagonal()
    if len(own) == 1:
        return own
    others = (contrasts.sum(1) - own) / (len(own) - 1)
    return own_weight * own + (1 - own_weight) * others
