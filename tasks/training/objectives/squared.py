"""Squared losses of a pair's log-ratio difference d = h_chosen - h_rejected: IPO, REBEL, INPO.

    IPO    (d - (2P - 1) / (2 beta))^2                       Azar et al., arXiv 2310.12036; P = 1 for hard labels
    REBEL  (d - eta (s_chosen - s_rejected))^2, or the same divided by eta^2      Gao et al., arXiv 2404.16767
    INPO   (D_pi - tau/eta D_initial - (eta - tau)/eta D_previous - (2P - 1) / (2 eta))^2    arXiv 2407.00617

with D_m = log m(chosen) - log m(rejected). IPO on responses of the policy itself is online IPO, and with responses of
pi_ref^m pi^(1-m) IPO-MD (Calandriello et al., arXiv 2403.08635): the loss is the same. Soft labels in INPO are ours.
iREPO is REBEL with the logit of the preference for the reward and beta = 1 / eta.
"""

from torch import Tensor

from tasks.training.objectives.irepo import Scale, squared_margin


def ipo(h_chosen: Tensor, h_rejected: Tensor, probability: Tensor | float = 1.0, *, beta: float) -> Tensor:
    """Loss of each pair, [N]. h: log-ratios, nats of whole responses, or a token."""
    return (h_chosen - h_rejected - (2 * probability - 1) / (2 * beta)).square()


def rebel(h_chosen: Tensor, h_rejected: Tensor, difference: Tensor, *, eta: float, scale: Scale) -> Tensor:
    """Loss of each pair, [N]. difference: s_chosen - s_rejected, of any sign; it gets no gradient."""
    return squared_margin(h_chosen - h_rejected, difference.detach(), beta=1 / eta, scale=scale)


def inpo(
    policy: Tensor,
    initial: Tensor,
    previous: Tensor,
    probability: Tensor | float = 1.0,
    *,
    eta: float,
    tau: float | None = None,
) -> Tensor:
    """Loss of each pair, [N]. policy, initial, previous: D under each, nats. tau: eta / 3 by default."""
    share = 1 / 3 if tau is None else tau / eta
    return (policy - share * initial - (1 - share) * previous - (2 * probability - 1) / (2 * eta)).square()
