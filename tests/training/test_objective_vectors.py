"""Every objective against vectors that were computed apart from this code, in float64 with complex-step gradients."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.training.objectives.adpo import adpo, score_shares
from tasks.training.objectives.beta_dpo import likelihood, step_beta
from tasks.training.objectives.bmc import bmc, differing, extra_weight, reweighted
from tasks.training.objectives.cpo import cpo
from tasks.training.objectives.dpo import dpo, length_offset
from tasks.training.objectives.f_dpo import f_dpo
from tasks.training.objectives.gpo import gpo
from tasks.training.objectives.inpo import inpo
from tasks.training.objectives.ipo import ipo
from tasks.training.objectives.irepo import irepo
from tasks.training.objectives.lcpo import lcpo, posterior
from tasks.training.objectives.madpo import madpo, madpo_weight
from tasks.training.objectives.odpo import odpo
from tasks.training.objectives.rdpo import rdpo
from tasks.training.objectives.rebel import rebel
from tasks.training.objectives.rpo import rpo, rpo_diagonal, similarity_weights
from tasks.training.objectives.selm import selm
from tasks.training.objectives.simpo import simpo
from tasks.training.objectives.slic import slic
from tasks.training.objectives.sppo import sppo
from tasks.training.objectives.sr_dpo import sr_dpo, sr_ipo
from tasks.training.objectives.step_apo import step_apo
from tasks.training.objectives.trpa import k3, trpa
from tasks.training.objectives.xpo import xpo

Loss = Callable[[Tensor, Tensor], Tensor]
TAU = 6.906754778648554
MADPO = {"c_max": 2.0, "c_min": 0.5, "slope": 1.0, "threshold": TAU}


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def at(chosen: Tensor, rejected: Tensor, value: Loss) -> tuple[float, float, float]:
    """Loss and both gradients."""
    first, second = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    loss = value(first, second)
    torch.autograd.backward(loss.sum())
    assert first.grad is not None
    assert second.grad is not None
    return loss.item(), first.grad.item(), second.grad.item()


LOGIT = column(math.log(3))
HALF = 0.4 / 0.1  # a quality difference whose offset is .4 at beta .1
#: name: loss of the log-ratios c = .7 (chosen) and r = -.4 (rejected), its value, and its slope in either
VECTORS: dict[str, tuple[Loss, float, float | None, float | None]] = {
    "irepo": (lambda c, r: irepo(c, r, LOGIT, beta=0.1), 0.977354257306, -0.197722457734, 0.197722457734),
    "irepo log-ratio": (
        lambda c, r: irepo(c, r, LOGIT, beta=0.1, scale="logratio"),
        97.735425730560,
        -19.772245773362,
        19.772245773362,
    ),
    "irepo beta 1": (lambda c, r: irepo(c, r, LOGIT, beta=1.0), 1.925743e-6, 0.002775422664, -0.002775422664),
    "dpo": (lambda c, r: dpo(c, r, beta=0.1), 0.639658918622, -0.047252769566, 0.047252769566),
    "dpo soft": (lambda c, r: dpo(c, r, 0.75, beta=0.1), 0.667158918622, -0.022252769566, 0.022252769566),
    "cdpo": (lambda c, r: dpo(c, r, beta=0.1, label_smoothing=0.1), 0.650658918622, -0.037252769566, 0.037252769566),
    "visit counts 6:2": (
        lambda c, r: dpo(c, r, beta=0.1, label_smoothing=0.25),
        0.667158918622,
        -0.022252769566,
        0.022252769566,
    ),
    "cpo": (lambda c, r: cpo(c - 14.7, r - 3.6, beta=0.1), 1.313261687518, -0.073105857863, 0.073105857863),
    "cpo soft": (
        lambda c, r: cpo(c - 14.7, r - 3.6, 0.75, beta=0.1),
        1.063261687518,
        -0.048105857863,
        0.048105857863,
    ),
    "simpo": (
        lambda c, r: simpo(c - 1.4, r, beta=2.0, margin=0.5),
        1.783900740888,
        -1.664036770268,
        1.664036770268,
    ),
    "simpo soft": (
        lambda c, r: simpo(c - 1.4, r, 0.75, beta=2.0, margin=0.5),
        1.566179368766,
        -0.948683747645,
        0.948683747645,
    ),
    "rdpo": (lambda c, r: rdpo(c, r, beta=0.1, flip_rate=0.1), 0.625908918622, -0.059752769566, 0.059752769566),
    "odpo": (lambda c, r: odpo(c, r, column(1.5), beta=0.1), 0.851752723993, -0.057333355232, 0.057333355232),
    "madpo": (
        lambda c, r: madpo(c, r, column(1.5), beta=0.1, **MADPO),
        0.7445671284541306,
        -0.05500253013385564,
        0.05500253013385564,
    ),
    "beta-dpo": (
        lambda c, r: dpo(c, r, beta=step_beta(1.1, 0.6, beta=0.1, gain=0.6)),
        0.6242011305994324,
        -0.06036040356568357,
        0.06036040356568357,
    ),
    "f-dpo forward": (
        lambda c, r: f_dpo(c, r, beta=0.1, divergence="forward_kl"),
        0.644622827032,
        -0.023594730886,
        0.070882488873,
    ),
    "f-dpo jsd": (
        lambda c, r: f_dpo(c, r, beta=0.1, divergence="jsd"),
        0.667980592473,
        -0.016167784064,
        0.029171477115,
    ),
    "f-dpo alpha .3": (
        lambda c, r: f_dpo(c, r, beta=0.1, divergence="alpha", alpha=0.3),
        0.641722675954,
        -0.038390497761,
        0.053399958821,
    ),
    "f-dpo alpha .5": (
        lambda c, r: f_dpo(c, r, beta=0.1, divergence="alpha", alpha=0.5),
        0.642810090333,
        -0.033415409704,
        0.057917359713,
    ),
    "lcpo": (
        lambda c, r: lcpo(*_both(c, r), posterior(*_both(c, r), 0.9)),
        0.649616821467,
        -0.038200130616,
        0.038200130616,
    ),
    "step-apo": (lambda c, r: step_apo(c, r, column(0.4), beta=0.1), 0.848623048234, -0.057199613293, 0.057199613293),
    "sr-dpo": (
        lambda c, r: sr_dpo(c, r, column(HALF), beta=0.1, weight=1.0),
        0.848623048234,
        -0.057199613293,
        0.057199613293,
    ),
    "selm": (
        lambda c, r: selm(c, r, column(0.3), beta=0.1, alpha=0.5),
        0.654658918622,
        -0.047252769566,
        0.047252769566,
    ),
    # The reference's sample is the rejected response, whose log-probability is -12 where h_l is -.4.
    "xpo": (lambda c, r: xpo(c, r, r - 11.6, beta=0.1, alpha=0.01), 0.519658918622, -0.047252769566, 0.057252769566),
    "r-dpo": (
        lambda c, r: dpo(c, r, beta=0.1, offset=length_offset(column(20), column(10), 0.01)),
        0.593649581022,
        None,
        None,
    ),
    "ln-dpo": (lambda c, r: dpo(c / 20, r / 10, beta=2.0), 0.620957047790, -0.046257015466, 0.092514030931),
    "slic": (lambda c, r: slic(c, r, beta=0.1), 0.89, -0.1, 0.1),
    "ipo": (lambda c, r: ipo(c, r, beta=0.1), 15.21, -7.8, 7.8),
    "ipo a token": (lambda c, r: ipo(c / 20, r / 10, beta=0.1), 24.255625, -0.4925, 0.985),
    "ipo soft": (lambda c, r: ipo(c, r, 0.75, beta=0.1), 1.96, -2.8, 2.8),
    "sppo eta 10": (lambda c, r: sppo(c, r, column(0.68), column(0.31), beta=0.1), 1.73, -1.1, 1.5),
    "sppo eta 1000": (lambda c, r: sppo(c, r, column(0.68), column(0.31), beta=1e-3), 34048.325, -179.3, 189.6),
    "sppo single P": (lambda c, r: sppo(c, r, column(0.75), column(0.25), beta=0.1), 3.825, -1.8, 2.1),
    "rebel code": (lambda c, r: rebel(c, r, column(1.5), eta=1.0, scale="logratio"), 0.16, -0.8, 0.8),
    "rebel paper": (lambda c, r: rebel(c, r, column(1.5), eta=2.0, scale="reward"), 0.9025, -0.95, 0.95),
    "gpo": (lambda c, r: gpo(c, r, column(0.36), column(-0.41), beta=0.1), 11.05, -2.9, 3.7),
    "trpa": (
        lambda c, r: trpa(c - 0.2, r + 0.1, torch.tensor([True]), beta=0.1, kappa=2.5),  # r = .5, -.3
        0.598138869382,
        -0.112541500672,
        0.112541500672,
    ),
}


def _both(c: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    return dpo(c, r, beta=0.1), dpo(r, c, beta=0.1)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    function, loss, chosen, rejected = VECTORS[name]
    value, first, second = at(column(0.7), column(-0.4), function)
    assert value == pytest.approx(loss, abs=1e-9)
    if chosen is not None:
        assert first == pytest.approx(chosen, abs=1e-9)
        assert second == pytest.approx(rejected, abs=1e-9)


def test_madpo_weights() -> None:
    weights = madpo_weight(column(1.5, -1.5, 9.0, -9.0, TAU), **MADPO)
    expected = [1.1640064834203192, 0.2649739357905749, 0.9950755952443783, 1.0, 1.0]
    assert weights.tolist() == pytest.approx(expected, abs=1e-9)


def test_beta_dpo_beta_and_weight() -> None:
    assert step_beta(1.1, 0.6, beta=0.1, gain=0.6) == pytest.approx(0.13, abs=1e-12)
    floor = step_beta(1.1, 3.0, beta=0.1, gain=0.6)
    assert floor == 1e-3
    assert dpo(column(0.7), column(-0.4), beta=floor).item() == pytest.approx(0.6925973318099377, abs=1e-9)
    assert likelihood(np.array([1.1]), 0.6, 0.8).item() == pytest.approx(0.8225775623986645, abs=1e-9)


def test_lcpo_posterior() -> None:
    """Of the base losses of DPO and, saturated, of IPO."""
    agree, disagree = _both(column(0.7), column(-0.4))
    assert posterior(agree, disagree, 0.5).item() == pytest.approx(0.5274723043445937, abs=1e-9)  # p itself
    assert posterior(agree, disagree, 0.9).item() == pytest.approx(0.9094736105063381, abs=1e-9)
    agree, disagree = ipo(column(0.7), column(-0.4), beta=0.1), ipo(column(-0.4), column(0.7), beta=0.1)
    assert (agree.item(), disagree.item()) == pytest.approx((15.21, 37.21))
    assert posterior(agree, disagree, 0.5).item() == pytest.approx(0.9999999997210531, abs=1e-12)


def test_rpo() -> None:
    chosen, rejected = column(0.7, 0.2).requires_grad_(), column(-0.4, 0.1).requires_grad_()
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    weights = similarity_weights(vectors, vectors, temperature=0.5)
    np.testing.assert_allclose(weights, [[0.68997448, 0.31002552], [0.31002552, 0.68997448]], atol=1e-8)
    loss = rpo(chosen, rejected, weights, beta=0.1).mean()
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(0.678350262815, abs=1e-9)
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.012136820088, -0.012434203675], abs=1e-9)
    assert rejected.grad.tolist() == pytest.approx([0.012136820088, 0.012434203675], abs=1e-9)


def test_rpo_diagonal() -> None:
    chosen = column(0.7, 0.2).requires_grad_()
    loss = rpo_diagonal(chosen, column(-0.4, 0.1), beta=0.1, own_weight=0.8).mean()
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(0.663846862267, abs=1e-9)
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.02375115281, -0.024750045817], abs=1e-9)


def test_bmc() -> None:
    """Two responses of two tokens, of which the second and the first differ."""
    won, lost = column(0.5, 0.2).log().requires_grad_(), column(0.4, 0.9).log().requires_grad_()
    pair = torch.tensor([0])
    first = reweighted(won.sum()[None], won[[1]], extra_weight(won[[1]], 1.5), pair)
    second = reweighted(lost.sum()[None], lost[[0]], extra_weight(lost[[0]], 1.5), pair)
    loss = bmc(first - second, column(-2.0) - column(-1.0), beta=0.1)
    torch.autograd.backward(loss.sum())
    assert first.item() == pytest.approx(-4.716741961645, abs=1e-9)
    assert second.item() == pytest.approx(-2.396087345343, abs=1e-9)
    assert loss.item() == pytest.approx(0.761358489617, abs=1e-9)
    assert won.grad is not None
    assert lost.grad is not None
    assert won.grad.tolist() == pytest.approx([-0.0532968, -0.1332421], abs=1e-7)
    assert lost.grad.tolist() == pytest.approx([0.1332421, 0.0532968], abs=1e-7)


def test_differing_tokens() -> None:
    first, second = differing(np.array([1, 2, 3, 4]), np.array([1, 9, 3, 4, 5]))
    assert (first, second) == ([1], [1, 4])
    assert differing(np.array([1, 2]), np.array([1, 2])) == ([], [])


def test_gradient_of_the_selm_bonus() -> None:
    bonus = column(0.3).requires_grad_()
    torch.autograd.backward(selm(column(0.7), column(-0.4), bonus, beta=0.1, alpha=0.5).sum())
    assert bonus.grad is not None
    assert bonus.grad.item() == pytest.approx(0.05, abs=1e-12)


def test_inpo() -> None:
    policy = column(1.5).requires_grad_()
    loss = inpo(policy, column(-0.2), column(0.5), eta=0.1)
    torch.autograd.backward(loss.sum())
    assert loss.item() == pytest.approx(14.187777777778, abs=1e-9)
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(-7.533333333333, abs=1e-9)


def test_adpo() -> None:
    h, owner = column(0.7, -0.4, 0.2, 0.0).requires_grad_(), torch.zeros(4, dtype=torch.long)
    shares = score_shares(column(1.0, 0.0, 0.5, -0.5), temperature=0.5)
    assert shares.tolist() == pytest.approx([0.78918752, 0.03560967, 0.16763863, 0.00756418], abs=1e-8)
    loss = adpo(h, shares, owner, temperature=0.8)
    torch.autograd.backward(loss.sum())
    assert loss.item() == pytest.approx(0.951066850565, abs=1e-9)
    assert -(shares * shares.log()).sum().item() == pytest.approx(0.641943634342, abs=1e-9)
    assert h.grad is not None
    expected = [-0.419581471314, 0.098823414650, 0.093892983856, 0.226865072809]
    assert h.grad.tolist() == pytest.approx(expected, abs=1e-9)


def test_adpo_of_a_pair() -> None:
    loss = adpo(column(0.7, -0.4), column(0.75, 0.25), torch.tensor([0, 0]), temperature=1.0)
    assert loss.item() == pytest.approx(0.562335325115, abs=1e-9)


def test_sr_ipo_is_ipo_with_a_higher_target() -> None:
    """The quality difference moves the minimum by weight * quality nats."""
    at_minimum = sr_ipo(column(5.6), column(0.0), column(0.3), beta=0.1, weight=2.0)
    assert at_minimum.item() == pytest.approx(0.0, abs=1e-12)
    assert sr_ipo(column(0.7), column(-0.4), column(0.0), beta=0.1, weight=2.0).item() == pytest.approx(15.21)


def test_k3_is_an_estimate_of_the_divergence() -> None:
    """Its mean over samples of pi is KL(pi || pi_old), exactly so over all tokens weighted by pi."""
    old, new = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    kl = (new.exp() * (new - old)).sum().item()
    assert (new.exp() * k3(new, old)).sum().item() == pytest.approx(kl, abs=1e-12)
    assert float(k3(new, old).min()) >= 0
