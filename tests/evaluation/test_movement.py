"""A round that did not move the policy, or moved it very far, is a warning."""

import logging

import pytest

from tasks.evaluation.divergence import Divergence
from tasks.evaluation.movement import warn_of_movement


@pytest.mark.parametrize(
    ("kl", "warning"),
    [
        (Divergence(mean=0.019, se=0.01, per_token=0.001), "cannot be told from the initial one: KL is 0.019 ± 0.02"),
        (Divergence(mean=-0.5, se=0.01, per_token=-0.1), "cannot be told"),
        (Divergence(mean=0.5, se=0.01, per_token=0.1), ""),
        (
            Divergence(mean=60.0, se=1.0, per_token=1.5),
            "far from the initial one: KL is 1.50 nats a token (60 a reply)",
        ),
        (Divergence(mean=0.5, se=None, per_token=0.1), ""),  # one prompt: no error is known
    ],
)
def test_warnings(kl: Divergence, warning: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "irepo"):
        warn_of_movement(kl)
    assert warning in caplog.text
    assert bool(caplog.records) == bool(warning)
