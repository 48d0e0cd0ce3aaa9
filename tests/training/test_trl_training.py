"""Offline training against TRL's DPOTrainer on the same file, settings and seed: the losses of the first 20 steps."""

from pathlib import Path

import pytest

from benchmarks.offline import STEPS, TOLERANCE, build, largest_difference, ours, theirs, write_set


@pytest.mark.slow
def test_the_first_losses_are_trls(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    policy, data = build(tmp_path / "policy"), write_set(tmp_path / "pairs.jsonl")
    found, expected = ours(policy, data, tmp_path / "ours"), theirs(policy, data, tmp_path / "theirs")
    assert len(found) == len(expected) == STEPS
    assert expected[-1] < expected[0] - 0.1, "the policy must move, or equal losses mean nothing"
    assert largest_difference(found, expected) < TOLERANCE
