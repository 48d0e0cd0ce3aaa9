"""Bradley-Terry and the empirical logit against printed vectors, a textbook MM iteration and brute force."""

import numpy as np
import pytest

from storage.arrays import Floats
from tasks.labeling.aggregation import bradley_terry, empirical_logit, rankings_to_wins, sigmoid

THREE = [[0, 3, 4], [2, 0, 3], [1, 2, 0]]
SEPARATED = [[0, 5, 5], [0, 0, 5], [0, 0, 0]]
RANKINGS = [[0, 1, 2, 3], [0, 2, 1, 3], [1, 0, 2, 3]]


def minorize_maximize(wins: Floats, anchor: float = 0.0) -> Floats:
    """Hunter 2004: p_i <- (W_i + c) / (sum_j N_ij / (p_i + p_j) + 2c / (p_i + 1)), geometric mean 1 when c = 0."""
    wins = np.where(np.eye(len(wins), dtype=bool), 0.0, wins)
    played, p = wins + wins.T, np.ones(len(wins))
    for _ in range(20_000):
        before = p
        p = (wins.sum(1) + anchor) / ((played / (p[:, None] + p)).sum(1) + 2 * anchor / (p + 1))
        if anchor == 0:
            p = p / np.exp(np.log(p).mean())
        if np.abs(np.log(p / before)).max() < 1e-14:
            break
    return np.log(p)


def test_plain_maximum_likelihood_vector() -> None:
    theta = bradley_terry([THREE]).theta[0]
    np.testing.assert_allclose(np.exp(theta), [1.778841241297, 1, 0.562163714661], atol=5e-13)
    np.testing.assert_allclose(theta, [0.575962164284, 0, -0.575962164284], atol=5e-13)
    p = sigmoid(theta[:, None] - theta)
    np.testing.assert_allclose([p[0, 1], p[0, 2], p[1, 2]], [0.640137772, 0.759862228, 0.640137772], atol=5e-10)


@pytest.mark.parametrize(
    ("regularisation", "strength"),
    [({"pseudo_wins": 0.5}, 1.81032356), ({"pseudo_wins": 0.1}, 3.25945972), ({"anchor": 0.5}, 2.47689326)],
)
def test_separated_vectors(regularisation: dict[str, float], strength: float) -> None:
    theta = bradley_terry([SEPARATED], **regularisation).theta[0]
    np.testing.assert_allclose(theta, [strength, 0, -strength], atol=5e-9)


def test_three_rankers_of_four_items() -> None:
    fit = bradley_terry(rankings_to_wins([RANKINGS]), pseudo_wins=0.5)
    np.testing.assert_allclose(fit.theta[0], [1.15266655, 0.49782980, -0.11708574, -1.53341062], atol=5e-9)
    gap, _ = fit.gaps(np.array([0]), np.array([0]), np.array([3]))
    assert gap[0] == pytest.approx(2.686077172, abs=5e-10)
    assert sigmoid(gap)[0] == pytest.approx(0.93620007, abs=5e-9)


def test_rankings_must_be_permutations() -> None:
    with pytest.raises(ValueError, match="permutation"):
        rankings_to_wins([[[0, 0, 1]]])


def test_haldane_anscombe_table() -> None:
    np.testing.assert_allclose(empirical_logit([0, 1], 1)[0], [-1.098612, 1.098612], atol=5e-7)
    np.testing.assert_allclose(empirical_logit(range(4), 3)[0], [-1.945910, -0.510826, 0.510826, 1.945910], atol=5e-7)
    np.testing.assert_allclose(empirical_logit(range(3), 5)[0], [-2.397895, -1.098612, -0.336472], atol=5e-7)
    nine = [-2.944439, -1.734601, -1.098612, -0.619039, -0.200671]
    np.testing.assert_allclose(empirical_logit(range(5), 9)[0], nine, atol=5e-7)
    assert float(empirical_logit(4, 5)[1]) == pytest.approx(0.888889, abs=5e-7)


@pytest.mark.parametrize(("k", "h", "a"), [(3, 2, 0.5), (-1, 2, 0.5), (1, 2, 0.0)])
def test_empirical_logit_refuses(k: float, h: float, a: float) -> None:
    with pytest.raises(ValueError, match="0 <= k <= h"):
        empirical_logit(k, h, a)


@pytest.mark.parametrize(("k", "h", "a"), [(4, 5, 0.5), (0, 3, 0.5), (2.5, 7, 0.5), (1, 1, 1.0)])
def test_two_items_with_pseudo_wins_are_the_empirical_logit(k: float, h: float, a: float) -> None:
    gap, se = bradley_terry([[[0, k], [h - k, 0]]], pseudo_wins=a).gaps(*(np.array([i]) for i in (0, 0, 1)))
    logit, variance = empirical_logit(k, h, a)
    assert gap[0] == pytest.approx(float(logit), abs=1e-10)
    assert se[0] ** 2 == pytest.approx(float(variance), rel=1e-10)


def test_newton_equals_minorize_maximize_on_random_votes() -> None:
    rng = np.random.default_rng(0)
    wins = rng.integers(1, 8, (40, 5, 5)).astype(float)
    sparse = rng.integers(0, 2, (40, 5, 5)).astype(float)
    plain, anchored = bradley_terry(wins).theta, bradley_terry(sparse, anchor=0.7).theta
    pseudo = bradley_terry(sparse, pseudo_wins=0.3).theta
    for i in range(40):
        np.testing.assert_allclose(plain[i], minorize_maximize(wins[i]), atol=1e-9)
        np.testing.assert_allclose(anchored[i], minorize_maximize(sparse[i], anchor=0.7), atol=1e-9)
        np.testing.assert_allclose(pseudo[i], minorize_maximize(sparse[i] + 0.3), atol=1e-9)


def test_ridge_is_the_maximum_of_the_posterior_and_se_its_curvature() -> None:
    """Against the log-posterior written out anew: no nearby point is higher, and curvature by finite differences."""
    rng = np.random.default_rng(1)
    wins = rng.integers(0, 6, (4, 4)) * (1 - np.eye(4))
    fit = bradley_terry([wins], prior_variance=2.0)

    def log_posterior(theta: Floats) -> float:
        likelihood = sum(wins[i, j] * np.log(1 / (1 + np.exp(theta[j] - theta[i]))) for i in range(4) for j in range(4))
        return float(likelihood - (theta**2).sum() / (2 * 2.0))

    theta, best = fit.theta[0], log_posterior(fit.theta[0])
    for _ in range(500):
        assert log_posterior(theta + rng.normal(0, 0.02, 4)) < best
    step = 1e-4 * np.eye(4)
    hessian = [
        [
            (
                log_posterior(theta + a + b)
                - log_posterior(theta + a - b)
                - log_posterior(theta - a + b)
                + log_posterior(theta - a - b)
            )
            / 4e-8
            for a in step
        ]
        for b in step
    ]
    np.testing.assert_allclose(fit.covariance[0], np.linalg.inv(-np.array(hessian)), rtol=1e-4, atol=1e-6)
    assert theta.sum() == pytest.approx(0, abs=1e-10)


def test_extreme_counts_converge() -> None:
    fit = bradley_terry([[[0.0, 1e6], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]], prior_variance=2.0)
    gap = fit.theta[0, 0] - fit.theta[0, 1]
    # Stationary: the expected losses, 1e6 * sigmoid(-gap), balance the pull of the prior, theta / 2.
    assert 1e6 / (1 + np.exp(gap)) == pytest.approx(fit.theta[0, 0] / 2.0, rel=1e-6)
    np.testing.assert_array_equal(fit.theta[1], 0.0)


def test_overshooting_steps_are_damped() -> None:
    """Whole Newton steps diverge on these counts: they end in a singular matrix."""
    wins = np.zeros((5, 5))
    wins[[0, 0, 1, 2, 3, 4], [1, 3, 4, 3, 2, 2]] = 362, 166, 2, 1134, 27, 401
    theta = bradley_terry([wins], pseudo_wins=0.01).theta[0]
    wins = wins + 0.01 * (1 - np.eye(5))
    expected = (wins + wins.T) / (1 + np.exp(theta - theta[:, None]))
    np.testing.assert_allclose(expected.sum(axis=1), wins.sum(axis=1), rtol=1e-8)


def test_swap_symmetry() -> None:
    rng = np.random.default_rng(2)
    wins = rng.integers(0, 5, (30, 4, 4)).astype(float)
    fit = bradley_terry(wins, prior_variance=2.0)
    np.testing.assert_allclose(bradley_terry(wins.transpose(0, 2, 1), prior_variance=2.0).theta, -fit.theta, atol=1e-10)
    order = rng.permutation(4)
    renamed = bradley_terry(wins[:, order][:, :, order], prior_variance=2.0)
    np.testing.assert_allclose(renamed.theta, fit.theta[:, order], atol=1e-10)


def test_strengths_are_determined_up_to_a_shift() -> None:
    """The anchor's virtual item may as well be a real one: gaps to it are the anchored strengths."""
    wins = np.array(SEPARATED, dtype=float)
    with_item = np.full((4, 4), 0.5)
    with_item[:3, :3] = wins
    plain = bradley_terry([with_item]).theta[0]
    np.testing.assert_allclose(plain[:3] - plain[3], bradley_terry([wins], anchor=0.5).theta[0], atol=1e-10)
    assert plain.mean() == pytest.approx(0, abs=1e-12)


def test_pseudo_inverse_covariance_without_prior() -> None:
    fit = bradley_terry([THREE])
    np.testing.assert_allclose(fit.covariance[0].sum(axis=1), 0, atol=1e-12)
    p = sigmoid(fit.theta[0][:, None] - fit.theta[0])
    weight = (np.array(THREE) + np.array(THREE).T) * p * (1 - p)
    np.testing.assert_allclose(fit.covariance[0], np.linalg.pinv(np.diag(weight.sum(1)) - weight), atol=1e-12)


def test_masked_items_do_not_exist() -> None:
    rng = np.random.default_rng(3)
    wins = rng.integers(0, 5, (1, 5, 5)).astype(float)
    mask = np.array([[True, False, True, True, False]])
    small = wins[:, mask[0]][:, :, mask[0]]
    for how in ({"prior_variance": 2.0}, {"anchor": 0.5}, {"pseudo_wins": 0.5}):
        fit, alone = bradley_terry(wins, mask=mask, **how), bradley_terry(small, **how)
        np.testing.assert_allclose(fit.theta[0, mask[0]], alone.theta[0], atol=1e-10)
        np.testing.assert_allclose(fit.covariance[0][np.ix_(mask[0], mask[0])], alone.covariance[0], atol=1e-10)
        assert np.isnan(fit.theta[0, ~mask[0]]).all()


def test_unconnected_win_graph_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="win graph of prompt 1 is not strongly connected: item 1 never beats item 0"):
        bradley_terry([THREE, SEPARATED])
    # A long cycle is connected only through others: 0 > 1 > ... > 8 > 0.
    cycle = np.roll(np.eye(9), 1, axis=1)
    np.testing.assert_allclose(bradley_terry([cycle]).theta, 0.0, atol=1e-10)
    cycle[8, 0] = 0
    with pytest.raises(ValueError, match="not strongly connected"):
        bradley_terry([cycle])


@pytest.mark.parametrize("wins", [[[[0, -1], [1, 0]]], [[[0, np.nan], [1, 0]]], [[0, 1], [1, 0]]])
def test_impossible_counts_are_refused(wins: Floats) -> None:
    with pytest.raises(ValueError, match="wins must be"):
        bradley_terry(wins, prior_variance=2.0)


def test_no_prompts() -> None:
    assert bradley_terry(np.zeros((0, 3, 3)), prior_variance=2.0).theta.shape == (0, 3)
