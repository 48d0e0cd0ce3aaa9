"""SELM and XPO: DPO with a term that moves the policy away from what the reference says anyway.

    SELM  -ls(beta d) + alpha beta h_r       Zhang et al., arXiv 2405.19332; y_r: the reference's greedy response
    XPO   -ls(beta d) + alpha log pi(y~)     Xie et al., arXiv 2405.21046; y~: a sample of the reference

Neither is bounded from below. In XPO's paper y~ is also one of the pair; here it is one more response to the prompt.
"""

from torch import Tensor

from tasks.training.objectives.logistic import dpo


def selm(h_chosen: Tensor, h_rejected: Tensor, h_greedy: Tensor, *, beta: float, alpha: float) -> Tensor:
    """Loss of each pair, [N]. h_greedy: log-ratio of the reference's greedy response to the pair's prompt, nats."""
    return dpo(h_chosen, h_rejected, beta=beta) + alpha * beta * h_greedy


def xpo(h_chosen: Tensor, h_rejected: Tensor, logprob: Tensor, *, beta: float, alpha: float) -> Tensor:
    """Loss of each pair, [N]. logprob: log pi of the reference's sample for the pair's prompt, nats."""
    return dpo(h_chosen, h_rejected, beta=beta) + alpha * logprob
