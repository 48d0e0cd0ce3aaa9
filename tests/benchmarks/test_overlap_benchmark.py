"""The overlap benchmark, short: no question is asked twice, the votes are the same, the label stage has less to do."""

from pathlib import Path

from benchmarks.overlap.__main__ import Judge, play, votes


def test_a_short_round(tmp_path: Path, tiny_policy: Path) -> None:
    judge = Judge(latency=0.05)
    try:
        play(tmp_path / "warmup", tiny_policy, 2, judge, overlap=True, shard_seconds=0.0)
        apart = play(tmp_path / "apart", tiny_policy, 12, judge, overlap=False, shard_seconds=0.3)
        together = play(tmp_path / "together", tiny_policy, 12, judge, overlap=True, shard_seconds=0.3)
    finally:
        judge.close()
    assert apart.requests == together.requests == 12 * 12
    assert votes(tmp_path / "apart").equals(votes(tmp_path / "together"))
    assert together.label < apart.label
