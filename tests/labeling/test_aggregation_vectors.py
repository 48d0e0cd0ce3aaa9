"""Rankings, ties, Dawid-Skene, ensembles, groups, label posteriors and plane scores against printed vectors."""

import numpy as np
import pytest

from tasks.labeling.aggregation import sigmoid
from tasks.labeling.aggregation.counts import pair_logits
from tasks.labeling.aggregation.davidson import davidson
from tasks.labeling.aggregation.dawid_skene import _posterior, dawid_skene
from tasks.labeling.aggregation.ensembles import combine
from tasks.labeling.aggregation.general import average_rows, plane_scores
from tasks.labeling.aggregation.groups import pointwise_minimum
from tasks.labeling.aggregation.plackett_luce import plackett_luce, rankings
from tasks.labeling.aggregation.reliability import label_posterior

RANKINGS = [[0, 1, 2, 3], [0, 2, 1, 3], [1, 0, 2, 3]]
LABELS = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]], dtype=float)


def test_plackett_luce() -> None:
    fit = plackett_luce(rankings([RANKINGS]), (1, 4), pseudo_wins=0.5)
    np.testing.assert_allclose(fit.theta[0], [0.99250492, 0.35578052, -0.04441055, -1.30387488], atol=5e-9)
    plain = plackett_luce(rankings([[[0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 0, 1]]]), (1, 3))
    np.testing.assert_allclose(np.exp(plain.theta[0]), [2.18782085, 0.67607382, 0.67607382], atol=5e-9)


def test_dawid_skene() -> None:
    item, annotator = (x.ravel() for x in np.indices(LABELS.shape))
    share, ones = LABELS.ravel(), np.ones(LABELS.size)
    start = np.full(3, 0.7)
    first = _posterior(item, annotator, share, ones, start, start, 0.5)
    np.testing.assert_allclose(first, [0.7, 0.92702703, 0.3, 0.7, 0.07297297, 0.7], atol=5e-9)
    once = (first[:, None] * LABELS + (1 - first[:, None]) * (1 - LABELS)).sum(axis=0)
    np.testing.assert_allclose((once + 1) / (6 + 2), [0.70675676, 0.65675676, 0.55675676], atol=5e-9)
    fit = dawid_skene(item, annotator, share)
    expected = [0.92937813, 0.86964437, 0.07062187, 0.37594555, 0.13035563, 0.92937813]
    np.testing.assert_allclose(fit.posterior, expected, atol=5e-9)
    np.testing.assert_allclose(fit.sensitivity, [0.73792108, 0.76893470, 0.41588749], atol=5e-9)


def test_davidson() -> None:
    pair = davidson([[[0, 5], [2, 0]]], [[[0, 3], [3, 0]]])
    gap, _ = pair.strengths.gaps(*(np.array([i]) for i in (0, 0, 1)))
    assert np.exp(gap[0]) == pytest.approx(2.5, rel=1e-9)
    assert np.exp(pair.log_nu[0]) == pytest.approx(0.9486832981, abs=5e-11)
    effective, _ = pair.gaps(*(np.array([i]) for i in (0, 0, 1)))
    assert sigmoid(effective)[0] == pytest.approx(0.5 + 0.3 / 2, abs=1e-9)  # P(win) .5, P(lose) .2, P(tie) .3
    three = davidson([[[0, 3, 4], [2, 0, 2], [1, 2, 0]]], [[[0, 1, 1], [1, 0, 2], [1, 2, 0]]])
    np.testing.assert_allclose(three.strengths.theta[0], [0.608692918, -0.152348981, -0.456343937], atol=5e-10)
    assert np.exp(three.log_nu[0]) == pytest.approx(0.614014651, abs=5e-10)


def test_ensemble_rules() -> None:
    scores = np.array([1, 0.2, 0.6, 0.9])
    assert combine(scores, "mean") == pytest.approx(0.675)
    assert combine(scores, "worst") == 0.2
    assert combine(scores, "uncertainty", 0.5) == pytest.approx(0.6265625)


def test_pointwise_minimum() -> None:
    score, group = pointwise_minimum(np.array([[2, 0, 1], [-1, 1, 0.5]]))
    np.testing.assert_array_equal(score, [-1, 0, 0.5])
    np.testing.assert_array_equal(group, [1, 0, 1])


def test_label_posterior_and_its_loss() -> None:
    """LCPO on the fixture: gap 1.1, beta 0.1, reliability 0.9, and the base loss of DPO."""
    p = sigmoid(np.array(0.11))
    w = label_posterior(np.array(0.9), p)
    assert float(p) == pytest.approx(0.5274723043445937, abs=1e-15)
    assert float(w) == pytest.approx(0.9094736105063381, abs=1e-15)
    assert float(-w * np.log(p) - (1 - w) * np.log1p(-p)) == pytest.approx(0.649616821467, abs=5e-13)
    assert float(-(w - p) * 0.1) == pytest.approx(-0.038200130616, abs=5e-13)
    assert label_posterior(np.array(1.0), p) == 1  # reliability 1 is for ever
    assert float(label_posterior(np.array(0.5), p)) == pytest.approx(float(p))
    ipo = sigmoid(np.array(37.21 - 15.21))
    assert float(ipo) == pytest.approx(0.9999999997210531, abs=1e-15)


def test_plane_scores_and_average_rows() -> None:
    v, w = np.array([0.6, 0.8, 0, 0]), np.array([0, 0.6, 0.8, 0])
    assert float(plane_scores(v, w)) == pytest.approx(0.36)
    assert float(plane_scores(w, v)) == pytest.approx(-0.36)
    assert float(sigmoid(plane_scores(v, w) / 0.1)) == pytest.approx(0.973403006423, abs=5e-13)
    wins = np.array([[[0, 3, 0], [0, 0, 3], [3, 0, 0]]], dtype=float)
    circle = pair_logits(wins)
    np.testing.assert_allclose(circle.logit[0, [0, 1, 2], [1, 2, 0]], np.log(7), atol=1e-12)  # 3 of 3: log 3.5 / 0.5
    np.testing.assert_allclose(average_rows(circle), 0, atol=1e-12)
