"""What holds for every objective, or ties one to another: symmetries, special cases, finite numbers everywhere."""

import math
from dataclasses import replace

import choix
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.training.objectives.adpo import adpo
from tasks.training.objectives.batch import Batch
from tasks.training.objectives.beta_dpo import BetaDpo, Running, drawn, likelihood, step_beta
from tasks.training.objectives.dpo import dpo
from tasks.training.objectives.f_dpo import f_dpo
from tasks.training.objectives.inpo import inpo
from tasks.training.objectives.ipo import ipo
from tasks.training.objectives.irepo import irepo
from tasks.training.objectives.lcpo import lcpo, posterior, updated
from tasks.training.objectives.madpo import madpo
from tasks.training.objectives.rdpo import rdpo
from tasks.training.objectives.rebel import rebel
from tasks.training.objectives.rpo import rpo, rpo_diagonal, similarity_weights
from tests.training.objective_batches import VARIANTS, batch_of, objective_of, values_of

LARGE = st.floats(-1e4, 1e4, allow_subnormal=False)
SMALL = st.floats(-5, 5, allow_subnormal=False)
EXAMPLES = settings(max_examples=12, deadline=None)

#: Labels of any sign are allowed: a label (y1, y2, P) says the same as (y2, y1, 1 - P).
SOFT = ["irepo", "irepo-logratio", "irepo-precision", "irepo-without-logit", "dpo-soft", "f-dpo-alpha",
        "f-dpo-reverse", "ipo-soft", "ipo-md", "rebel-paper", "inpo-soft", "adpo", "dno-soft", "lcpo",
        "lcpo-ipo", "sppo", "lcpo-simpo", "simpo-soft", "cpo-soft", "gpo", "rebel"]  # fmt: skip
#: Their gradient depends on single log-ratios, or on log-ratios a token.
NOT_SHIFTED = {"dpo-mean", "dpo-nll", "f-dpo", "f-dpo-forward", "f-dpo-alpha", "bmc", "bmc-policy", "selm", "xpo",
               "trpa", "slic-classic", "ipo-mean", "sppo", "gpo", "adpo-mean",
               "simpo", "simpo-soft", "lcpo-simpo", "cpo", "lcpo-cpo", "nash-md", "c-rlft"}  # fmt: skip
#: At log-ratios of 0 their loss is log 2.
LOG_TWO = ["dpo", "dpo-soft", "cdpo", "dpo-mean", "rdpo", "beta-dpo", "f-dpo", "f-dpo-forward", "f-dpo-reverse",
           "f-dpo-alpha", "lcpo", "lcpo-pooled", "rpo", "rpo-unpaired", "rpo-diagonal", "bmc", "bmc-policy", "dno",
           "dno-soft", "selm", "trpa"]  # fmt: skip


def column(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def random_batch(seed: int = 0, groups: int = 4) -> Batch:
    noise = torch.Generator().manual_seed(seed)
    h, labels = (
        torch.randn(3 * groups, dtype=torch.float64, generator=noise),
        torch.randn(groups, dtype=torch.float64, generator=noise),
    )
    return batch_of(h, labels)


def swapped(batch: Batch) -> Batch:
    """Every pair with its sides and its labels swapped."""
    pairs = batch.pairs | {"reward": -batch.pairs["reward"], "votes": 1 - batch.pairs["votes"]}
    return replace(batch, chosen=batch.rejected, rejected=batch.chosen, labels=-batch.labels, pairs=pairs)


@pytest.mark.parametrize("variant", SOFT)
def test_swap_symmetry(variant: str) -> None:
    objective, batch = objective_of(variant), random_batch()
    torch.testing.assert_close(
        values_of(objective, swapped(batch)).mean(), values_of(objective, batch).mean(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in NOT_SHIFTED])
@EXAMPLES
@given(shift=st.floats(-100, 100, allow_subnormal=False), seed=st.integers(0, 99))
def test_shift_invariance(variant: str, shift: float, seed: int) -> None:
    """The same constant on all log-ratios of a step changes nothing."""
    objective, batch = objective_of(variant), random_batch(seed)
    moved = batch.at(batch.logprobs + shift, batch.tokens.policy if batch.tokens else None)
    torch.testing.assert_close(values_of(objective, moved), values_of(objective, batch), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("variant", LOG_TWO)
def test_loss_at_the_reference_is_log_two(variant: str) -> None:
    batch = batch_of(torch.zeros(12, dtype=torch.float64), torch.linspace(0.1, 2.0, 4, dtype=torch.float64))
    losses = values_of(objective_of(variant), batch)
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@EXAMPLES
@given(values=st.lists(LARGE, min_size=6, max_size=6), labels=st.tuples(SMALL, SMALL))
def test_finite_for_extreme_log_ratios(
    variant: str, dtype: torch.dtype, values: list[float], labels: tuple[float, float]
) -> None:
    h = torch.tensor(values, dtype=dtype, requires_grad=True)
    losses = values_of(objective_of(variant), batch_of(h, torch.tensor(labels, dtype=dtype)))
    torch.autograd.backward(losses.mean())
    assert torch.isfinite(losses).all()
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()


@pytest.mark.parametrize("variant", VARIANTS)
@EXAMPLES
@given(values=st.lists(SMALL, min_size=6, max_size=6), labels=st.tuples(SMALL, SMALL))
def test_single_precision_agrees_with_double(variant: str, values: list[float], labels: tuple[float, float]) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        # Rounded to float32 first, so that both see the same numbers.
        h = torch.tensor(values, dtype=torch.float32).to(dtype).requires_grad_()
        label = torch.tensor(labels, dtype=torch.float32).to(dtype)
        losses = values_of(objective_of(variant), batch_of(h, label))
        torch.autograd.backward(losses.mean())
        assert h.grad is not None
        found.append((losses.detach().double(), h.grad.double()))
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=2e-4, atol=2e-4 * (1 + float(double.abs().max())))


def test_rpo_of_one_prompt_is_dpo() -> None:
    one = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    weights = similarity_weights(one, one, temperature=0.5)
    plain = dpo(column(0.7), column(-0.4), beta=0.1)
    assert rpo(column(0.7), column(-0.4), weights, beta=0.1).item() == pytest.approx(plain.item(), abs=1e-12)
    assert rpo_diagonal(column(0.7), column(-0.4), beta=0.1, own_weight=0.8).item() == plain.item()


@EXAMPLES
@given(d=SMALL, p=st.floats(0.01, 0.99), beta=st.floats(0.05, 5))
def test_adpo_of_two_is_soft_dpo(d: float, p: float, beta: float) -> None:
    listwise = adpo(column(d, 0.0), column(p, 1 - p), torch.tensor([0, 0]), temperature=1 / beta)
    assert listwise.item() == pytest.approx(dpo(column(d), column(0.0), p, beta=beta).item(), abs=1e-10)


def test_adpo_of_ragged_groups_is_that_of_each_alone() -> None:
    noise = torch.Generator().manual_seed(1)
    h, owner = torch.randn(9, dtype=torch.float64, generator=noise), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    shares = torch.cat([torch.rand(n, dtype=torch.float64, generator=noise) for n in (4, 2, 3)])
    shares = shares / torch.zeros(3, dtype=torch.float64).index_add(0, owner, shares)[owner]
    shares[8] = torch.nan  # takes no part
    shares[6:8] /= shares[6:8].sum()
    together = adpo(h, shares, owner, temperature=0.8)
    for group, rows in enumerate((slice(0, 4), slice(4, 6), slice(6, 8))):
        alone = -(shares[rows] * (h[rows] / 0.8).log_softmax(0)).sum()
        assert together[group].item() == pytest.approx(alone.item(), abs=1e-12)


def test_lcpo_of_a_sure_annotator_is_the_base_loss_and_of_a_coin_weighs_by_its_odds() -> None:
    agree, disagree = dpo(column(0.7), column(-0.4), beta=0.1), dpo(column(-0.4), column(0.7), beta=0.1)
    assert lcpo(agree, disagree, posterior(agree, disagree, 1.0)).item() == agree.item()
    assert posterior(agree, disagree, 0.5).item() == pytest.approx(1 / (1 + math.exp(-0.11)), abs=1e-12)


def test_lcpo_reliabilities_are_learnt_and_bounded() -> None:
    assert updated(0.9, 0.5, 0.1) == pytest.approx(0.86)
    assert updated(0.5, 0.0, 1.0) == 0.5
    assert updated(0.99, 1.0, 1.0) == 0.999
    assert updated(0.7, math.nan, 0.1) == 0.7


def test_lcpo_learns_who_is_right() -> None:
    """The policy is sure of chosen; one annotator votes so, one against, one for ties."""
    objective = objective_of("lcpo")
    batch = batch_of(column(30, -30, 0, 40, -40, 0), column(1.0, 1.0))
    memory: dict[str, float] = {}
    for _ in range(30):
        memory = dict(objective.step_loss(batch, memory, np.random.default_rng(0)).memory)
    assert memory["one"] > 0.99
    assert memory["two"] == 0.5
    assert 0.4 < memory["three"] < 0.6


@EXAMPLES
@given(d=SMALL, margin=SMALL)
def test_madpo_with_c_one_is_dpo(d: float, margin: float) -> None:
    weighted = madpo(column(d), column(0.0), column(margin), beta=0.1, c_max=1.0, c_min=None, slope=1.0, threshold=6.9)
    assert weighted.item() == dpo(column(d), column(0.0), beta=0.1).item()


@EXAMPLES
@given(first=SMALL, second=SMALL)
def test_f_dpo_approaches_dpo(first: float, second: float) -> None:
    near = f_dpo(column(first), column(second), beta=0.1, divergence="alpha", alpha=1e-9)
    assert near.item() == pytest.approx(dpo(column(first), column(second), beta=0.1).item(), abs=1e-8)


@EXAMPLES
@given(policy=SMALL, initial=SMALL, previous=SMALL, eta=st.floats(0.01, 1))
def test_inpo_without_tau_is_ipo_from_the_previous_policy(
    policy: float, initial: float, previous: float, eta: float
) -> None:
    nash = inpo(column(policy), column(initial), column(previous), eta=eta, tau=0.0)
    assert nash.item() == pytest.approx(ipo(column(policy - previous), column(0.0), beta=eta).item(), rel=1e-9)


def test_beta_dpo_without_gain_and_filter_is_dpo() -> None:
    batch = random_batch(groups=6)
    plain = BetaDpo(gain=0.0, drop=0.0)
    torch.testing.assert_close(values_of(plain, batch), values_of(objective_of("dpo"), batch), rtol=0, atol=0)


def test_beta_dpo_keeps_its_share_and_runs_from_an_unbiased_start() -> None:
    gaps = np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    mean, deviation = Running().updated(gaps, 0.9).corrected(0.9)
    assert (mean, deviation) == pytest.approx((gaps.mean(), gaps.std()))
    kept = [drawn(likelihood(gaps, 1.5, 1.0), 0.2, np.random.default_rng(seed)) for seed in range(50)]
    assert all(len(each) == 4 and 4 not in each for each in kept)  # 98 deviations away: drawn last
    equal = np.zeros(10)
    assert likelihood(equal, 0.0, 0.0).tolist() == [1.0] * 10
    assert len(drawn(likelihood(equal, 0.0, 0.0), 0.2, np.random.default_rng(0))) == 8
    assert step_beta(5.0, 0.0, beta=0.1, gain=0.6) == pytest.approx(0.4)


@EXAMPLES
@given(d=SMALL, p=st.floats(0, 1), beta=st.floats(0.05, 5))
def test_soft_ipo_has_the_gradient_of_the_mixture(d: float, p: float, beta: float) -> None:
    """The mean of the hard losses over a label drawn with p differs by a constant."""
    gradients = []
    for mixture in (False, True):
        x = column(d).requires_grad_()
        zero = column(0.0)
        loss = (
            p * ipo(x, zero, beta=beta) + (1 - p) * ipo(zero, x, beta=beta) if mixture else ipo(x, zero, p, beta=beta)
        )
        torch.autograd.backward(loss.sum())
        assert x.grad is not None
        gradients.append(x.grad.item())
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-9, abs=1e-9)


@EXAMPLES
@given(d=SMALL, eps=st.floats(0, 0.45))
def test_rdpo_is_unbiased_under_flips(d: float, eps: float) -> None:
    """Labels flipped with probability eps: the mean loss is that of the right label."""
    kept, flipped = (rdpo(column(x), column(0.0), beta=0.5, flip_rate=eps).item() for x in (d, -d))
    assert (1 - eps) * kept + eps * flipped == pytest.approx(dpo(column(d), column(0.0), beta=0.5).item(), abs=1e-9)


@EXAMPLES
@given(d=SMALL, target=SMALL, beta=st.floats(0.05, 5))
def test_irepo_is_rebel_with_logits_for_rewards(d: float, target: float, beta: float) -> None:
    ours = irepo(column(d), column(0.0), column(target), beta=beta, scale="logratio")
    assert rebel(column(d), column(0.0), column(target), eta=1 / beta, scale="logratio").item() == pytest.approx(
        ours.item(), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize(("wins", "losses"), [(3, 0), (2, 1), (5, 4), (0, 1)])
def test_haldane_anscombe_logit_is_bradley_terry_with_half_a_win_each_way(wins: int, losses: int) -> None:
    """As whole wins: everything is counted twice, and once more for the half wins."""
    data = [(0, 1)] * (2 * wins + 1) + [(1, 0)] * (2 * losses + 1)
    strengths = choix.ilsr_pairwise(2, data)
    assert strengths[0] - strengths[1] == pytest.approx(math.log((wins + 0.5) / (losses + 0.5)), abs=1e-6)
